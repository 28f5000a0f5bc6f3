"""`mbt doctor`: what works on this machine, what does not, and how to fix it.

Each check runs in its own process with a time limit, so a package that crashes or hangs is a finding like any other.
Nothing that is checked is imported at the top: the doctor must also run where `import torch` fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from mbt_lightning.disk import cache_folder
from mbt_lightning.errors import one_line

BAD_LIGHTNING = ("2.6.2", "2.6.3")
"""Malicious uploads."""
DECORDS = ("decord", "decord2", "eva-decord")
"""Packages that all install a module named decord, and overwrite each other."""
EXTRAS = {
    "timm": "weights of timm",
    "litdata": "jpeg-shards",
    "simplejpeg": "jpeg-shards",
    "torchcodec": "data.inputs.rgb.decoder: torchcodec",
    "matplotlib": "figures of mbt table",
    "scipy": "paired tests of mbt table",
    "optuna": "bayes in mbt sweep",
    "submitit": "mbt sweep --launcher slurm",
}
MIN_SHARED_BYTES = 1 << 30  # a worker prepares two batches, and 64 clips of 8 frames take 0.13 GB
MIN_MEMORY_BYTES = 4 << 30
MIN_DISK_BYTES = 1 << 30
MIN_OPEN_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One row of the table: `state` is "ok", "warning" (training can run, but not as it could) or "broken"."""

    state: str
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """A check for its own process; `fix` is the advice if it raises, crashes or hangs."""

    what: str
    run: Callable[[], Iterator[Finding]]
    fix: str
    is_needed: bool = True


def main(arguments: Sequence[str]) -> None:
    """Run `mbt doctor`; exit code 1 if training cannot run here."""
    parser = argparse.ArgumentParser("mbt doctor", description="Check what works on this machine.")
    parser.add_argument("--timeout_seconds", type=float, default=120.0, help="time limit of each check (default: 120)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if not options.timeout_seconds > 0:
        parser.error(f"--timeout_seconds is {options.timeout_seconds:g}: give a number above 0")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        groups = list(pool.map(partial(examine, timeout_seconds=options.timeout_seconds), CHECKS.values()))
    findings = [finding for group in groups for finding in group]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    sys.exit(any(finding.state == "broken" for finding in findings))


def examine(check: Check, timeout_seconds: float) -> list[Finding]:
    """The findings of a check, from a process that may crash or hang."""
    with tempfile.TemporaryDirectory(prefix="mbt-doctor-") as folder:
        findings_file, log = Path(folder, "findings"), Path(folder, "output")
        findings_file.touch()
        code = f"from mbt_lightning.cli import doctor; doctor.run({check.what!r}, {str(findings_file)!r})"
        # -P and the full path: the same packages as here, wherever the program was started.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
            trouble = ""
            try:
                status = process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                trouble = f"hangs: not done after {timeout_seconds:g} s"
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is abandoned
                    process.wait(5)
            else:
                if status < 0:
                    trouble = f"crashes ({signal.Signals(-status).name})"
                elif status:
                    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
                    last = next((line for line in reversed(lines) if line.strip()), f"exit code {status}")
                    trouble = f"fails: {one_line(last)[:200]}"
        findings = [Finding(**json.loads(line)) for line in findings_file.read_text(encoding="utf-8").splitlines()]
    if trouble:
        findings.append(Finding("broken" if check.is_needed else "warning", check.what, trouble, check.fix))
    return findings


def run(what: str, findings_file: str) -> None:
    """Run a check in this process, and append each finding to a file as soon as it is known."""
    with open(findings_file, "a", encoding="utf-8") as file:
        for finding in CHECKS[what].run():
            print(json.dumps(asdict(finding)), file=file, flush=True)


def print_findings(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found, and what to do"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "warning": "yellow", "broken": "red"}
    for finding in findings:
        table.add_row(f"[{colours[finding.state]}]{finding.state}", finding.what, _plain(finding.found))
        if finding.fix:
            table.add_row("", "", _plain(f"-> {finding.fix}"))
    console = Console(highlight=False)
    console.print(table)
    counts = {state: sum(finding.state == state for finding in findings) for state in colours}
    conclusion = "Training cannot run here" if counts["broken"] else "Training can run here"
    console.print(f"\n{conclusion}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


# ---- the checks


def check_packages() -> Iterator[Finding]:
    """Compare installed versions with the bounds declared by our own package."""
    from packaging.requirements import Requirement

    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    try:
        lines = metadata.requires("mbt-lightning") or []
    except metadata.PackageNotFoundError:
        lines = []
        fix = "pip install mbt-lightning (in a checkout: pip install -e .)"
        yield Finding("warning", "packages", "mbt-lightning is not installed: versions cannot be checked", fix)
    fitting = []
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version, bounds = _version(requirement.name), f"{requirement.name}{requirement.specifier}"
        if version and requirement.specifier.contains(version, prereleases=True):
            fitting.append(f"{requirement.name} {version}")
            continue
        # Without decord PyAV decodes the frames.
        state = "warning" if requirement.name == "decord" else "broken"
        found = f"{version or 'not'} installed, but {bounds} is required"
        yield Finding(state, requirement.name, found, f'pip install "{bounds}"')
    if fitting:
        yield Finding("ok", "packages", f"within their bounds: {', '.join(fitting)}")

    for name in ("lightning", "pytorch-lightning"):
        if _version(name) in BAD_LIGHTNING:
            fix = f'pip uninstall {name}; pip install "lightning>=2.6.6"; change every secret that was on this machine'
            yield Finding("broken", name, f"{_version(name)} was a malicious upload", fix)
    together = [name for name in DECORDS if _version(name)]
    if len(together) > 1:
        fix = f"pip uninstall {' '.join(together)}; pip install decord"
        yield Finding("warning", "decord", f"{' and '.join(together)} overwrite each other's module decord", fix)
    for name, purpose in EXTRAS.items():
        version = _version(name)
        found = version or f"not installed; optional, for {purpose}"
        yield Finding("ok", f"extra: {name}", found, "" if version else f"to use it: pip install {name}")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_torch() -> Iterator[Finding]:
    """Torch and torchaudio, which must come from the same index."""
    import torch

    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else torch.version.hip or "the CPU"
    yield Finding("ok", "torch", f"{torch.__version__}, built for {cuda}")
    import torchaudio

    waves = torchaudio.functional.lfilter(torch.ones(3), torch.tensor([1.0, -0.5]), torch.tensor([1.0, 0.0]), False)
    assert torch.allclose(waves, torch.tensor([1.0, 1.5, 1.75])), "torchaudio's compiled filter gives wrong results"
    yield Finding("ok", "torchaudio", f"{torchaudio.__version__}; its compiled operations work")


def check_devices() -> Iterator[Finding]:
    """Every device computes the same as the CPU."""
    import torch

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    for device in devices:
        yield _check_device(device)
    if not devices:
        driver = _nvidia_driver()
        if driver and torch.version.cuda is None:
            fix = "install torch and torchaudio built for CUDA: https://pytorch.org/get-started/locally"
            yield Finding("warning", "devices", f"{driver}, but torch is built for the CPU", fix)
        elif driver:
            fix = f"update the driver to one for CUDA {torch.version.cuda}, or install a torch built for an older CUDA"
            yield Finding("warning", "devices", f"{driver}, but torch cannot use it", fix)
        else:
            yield Finding("ok", "devices", "no GPU: everything runs on the CPU")


def _check_device(device: str) -> Finding:
    import torch

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(256, 256, generator=generator)
    window = torch.hann_window(400)

    def spectrum(x: torch.Tensor) -> torch.Tensor:
        return torch.stft(x.flatten(), 512, 160, 400, window.to(x.device), return_complex=True).abs()

    there = matrix.to(device)
    for name, found, expected in (
        ("matrix product", there @ there, matrix @ matrix),
        ("Fourier transform", spectrum(there), spectrum(matrix)),
    ):
        if not torch.allclose(found.cpu(), expected, rtol=0.02, atol=0.2):  # TF32 may be on
            fix = "update the driver, and install a torch built for this device"
            return Finding("broken", device, f"its {name} differs from the CPU's", fix)
    if device == "mps":
        return Finding("ok", device, "Apple GPU; computes as the CPU does")
    about = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    text = f"{about.name}, {_size(free)} of {_size(total)} free, computes as the CPU does"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("ok", device, f"{text}; has bf16")
    return Finding("ok", device, f"{text}; no bf16", "use trainer.precision: 16-mixed or 32-true")


def _nvidia_driver() -> str:
    """The first NVIDIA GPU and its driver, or ""."""
    if not (program := shutil.which("nvidia-smi")):
        return "an NVIDIA GPU is here" if os.path.exists("/dev/nvidia0") else ""
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    if done.returncode:
        return f"the NVIDIA driver does not work ({one_line(done.stdout)[:100]})"
    return f"{one_line(done.stdout.splitlines()[0])} (name, driver) is here" if done.stdout.strip() else ""


def check_decoder(name: str) -> Iterator[Finding]:
    """A decoder returns the frames, and PyAV the audio, of a clip that was just encoded."""
    import numpy as np

    from mbt_lightning.data import demo
    from mbt_lightning.data.media.frames import DECODERS
    from mbt_lightning.data.media.probe import probe
    from mbt_lightning.data.media.sound import read_waveform

    reader, what = DECODERS[name][0], f"decoder: {name}"
    if why := reader.why_not():
        is_absent = importlib.util.find_spec(name) is None
        instead = "optional" if name == "torchcodec" else "PyAV decodes instead, more slowly"
        yield Finding("ok" if is_absent else "warning", what, f"{why}; {instead}", f"to use it: {reader.fix}")
        return
    numbers = np.arange(24)
    colours = np.stack([30 + 8 * numbers, 220 - 8 * numbers, 128 + 0 * numbers], 1).astype(np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (24, demo.SIZE, demo.SIZE, 3))
    seconds = np.arange(round(24 / demo.FRAME_RATE * demo.SAMPLE_RATE)) / demo.SAMPLE_RATE
    tone = (0.3 * np.sin(2 * np.pi * (300 + 200 * seconds) * seconds)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="mbt-doctor-") as folder:
        path = Path(folder, "clip.mp4")
        demo.encode(path, frames, tone)
        info = probe(path)
        assert info.video and info.audio and not reader.problem(info), "the encoded clip is unusual"
        indices = np.array([0, 5, 6, 17, 23])
        found, _ = reader.read(info, info.video, indices)
        error = np.abs(found.astype(int) - frames[indices]).mean((1, 2, 3)).max()  # off by one frame: 5.3
        assert error < 2.5, f"frames decoded by {name} differ from the encoded ones by {error:.1f} of 255"
        if name == "pyav":
            heard, _ = read_waveform(info, info.audio, 0.2, 0.5, demo.SAMPLE_RATE)
            correlation = np.corrcoef(heard.numpy(), tone[round(0.2 * demo.SAMPLE_RATE) :][: len(heard)])[0, 1]
            assert correlation > 0.9, f"audio decoded by PyAV differs from the original (correlation {correlation:.2f})"
    yield Finding("ok", what, f"{reader.version()}; decodes a clip's {'audio and ' * (name == 'pyav')}frames correctly")


def check_machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("ok", "cores", f"{cores} (data.num_workers: about as many for each GPU's process, all together)")
    if memory := _memory_bytes():
        fix = "" if memory >= MIN_MEMORY_BYTES else "reduce data.num_workers and data.batch_size"
        yield Finding("warning" if fix else "ok", "memory", _size(memory), fix)
    if os.path.isdir("/dev/shm"):
        shared = shutil.disk_usage("/dev/shm")
        fix = "docker run --shm-size=8g (or --ipc=host); or data.num_workers: 0"
        fix = "" if shared.free >= MIN_SHARED_BYTES else fix
        found = f"{_size(shared.free)} of {_size(shared.total)} free in /dev/shm, which workers use for batches"
        yield Finding("warning" if fix else "ok", "shared memory", found, fix)
    with suppress(ImportError):  # Windows
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        few = 0 <= files < MIN_OPEN_FILES
        fix = f"ulimit -n {MIN_OPEN_FILES * 4}" if few else ""
        yield Finding("warning" if few else "ok", "open files", "no limit" if files < 0 else f"at most {files}", fix)


def check_cache() -> Iterator[Finding]:
    """The folder of demo clips and large tables is writable and has space."""
    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    fix = "set MBT_CACHE to a writable folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding("broken", "cache folder", f"{folder} cannot be written ({error.strerror})", fix)
        return
    few = free < MIN_DISK_BYTES
    found = f"{folder}, {_size(free)} free"
    yield Finding("warning" if few else "ok", "cache folder", found, "set MBT_CACHE to a larger disk" if few else "")


def _memory_bytes() -> int:
    """Memory available to this process: the machine's, or the container's part of it; 0 if unknown."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # it may be "max"
            found.append(int(Path(file).read_text()))
    return min(found, default=0)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB"


CHECKS = {
    check.what: check
    for check in (
        Check("packages", check_packages, "pip install mbt-lightning"),
        Check(
            "torch, torchaudio",
            check_torch,
            'from one index, for one CUDA: pip install --force-reinstall "torch>=2.11,<2.13" "torchaudio>=2.11,<2.12"',
        ),
        Check(
            "devices",
            check_devices,
            "update the driver or install a torch built for the GPU; CUDA_VISIBLE_DEVICES= trains on the CPU",
        ),
        Check("decoder: pyav", partial(check_decoder, "pyav"), 'pip install --force-reinstall "av>=18,<20"'),
        Check(
            "decoder: decord",
            partial(check_decoder, "decord"),
            "pip install --force-reinstall decord; or pip uninstall decord, or data.inputs.rgb.decoder: pyav",
        ),
        Check(
            "decoder: torchcodec",
            partial(check_decoder, "torchcodec"),
            'pip install --force-reinstall "torchcodec>=0.12,<1"; or use another data.inputs.rgb.decoder',
            is_needed=False,
        ),
        Check("machine", check_machine, "check the machine's limits by hand", is_needed=False),
        Check("cache folder", check_cache, "set MBT_CACHE to a folder on a working disk"),
    )
}
