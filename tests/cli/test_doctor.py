"""`mbt doctor`, on this machine as it is and with packages that are broken in the ways that packages are."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mbt_lightning
from mbt_lightning.cli import doctor
from mbt_lightning.cli.doctor import CHECKS, Finding, examine
from mbt_lightning.data.media.frames import DECODERS

SOURCE = Path(mbt_lightning.__file__).parent.parent


def run_doctor(*arguments: str, stubs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, with these packages before all others."""
    path = os.pathsep.join(map(str, filter(None, (stubs, SOURCE))))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "80"}
    command = [sys.executable, "-m", "mbt_lightning", "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def stub(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def installed(folder: Path, name: str, version: str, *requires: str) -> None:
    """Make a package look installed."""
    (folder / f"{name}-{version}.dist-info").mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text("\n".join(lines) + "\n")


def test_training_can_run_here():
    done = run_doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.split())
    assert "Training can run here" in text and " 0 broken" in text
    for name, readers in DECODERS.items():
        if name != "auto":
            assert f"decoder: {name}" in text
            assert readers[0].why_not() or readers[0].version() in text
    assert text.count("decodes a clip's") == sum(not readers[0].why_not() for readers in DECODERS.values()) - 1


def test_it_speaks_where_torch_does_not_import(tmp_path):
    stub(tmp_path, "torch", "raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = run_doctor("--json", stubs=tmp_path)
    assert done.returncode == 1, done.stderr
    found = {finding["what"]: Finding(**finding) for finding in json.loads(done.stdout)}
    broken = found["torch, torchaudio"]
    assert broken.state == "broken" and broken.found.startswith("fails: ImportError: libcudart.so.13")
    assert "pip install --force-reinstall" in broken.fix
    assert found["cores"].state == "ok"


BROKEN = {
    "old torchcodec without FFmpeg": (
        ("torchcodec", "raise RuntimeError('Could not load libtorchcodec')"),
        ("warning", "torchcodec finds no usable FFmpeg", "apt install ffmpeg"),
    ),
    "torchcodec that crashes": (
        ("torchcodec", "import os; os.abort()"),
        ("warning", "crashes (SIGABRT)", "torchcodec>=0.12"),
    ),
    "decord that raises": (
        ("decord", "raise OSError('libdecord.so: invalid ELF header')"),
        ("warning", "libdecord.so: invalid ELF header); PyAV decodes instead", "pip install decord"),
    ),
    "decord that hangs": (
        ("decord", "import time; time.sleep(600)"),
        ("broken", "hangs: not done after 10 s", "data.inputs.rgb.decoder: pyav"),
    ),
    "decord that returns other frames": (
        (
            "decord",
            "class logging: QUIET = 0; set_level = print\n"
            "class Black:\n"
            "    def __init__(self, *args, **options): pass\n"
            "    def __len__(self): return 24\n"
            "    def get_batch(self, indices): return self\n"
            "    def asnumpy(self): import numpy; return numpy.zeros((5, 64, 64, 3), numpy.uint8)\n"
            "VideoReader, cpu = Black, int\n",
        ),
        ("broken", "frames decoded by decord differ from the encoded ones by", "data.inputs.rgb.decoder: pyav"),
    ),
}


BY_DEFAULT = ("torchcodec that crashes", "decord that hangs")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in BY_DEFAULT else pytest.mark.slow) for c in BROKEN])
def test_a_broken_decoder_is_a_finding(case, tmp_path, monkeypatch):
    (name, code), (state, found, fix) = BROKEN[case]
    stub(tmp_path, name, code)
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = examine(CHECKS[f"decoder: {name}"], timeout_seconds=10 if "hangs" in case else 120)
    assert finding.state == state and found in finding.found and fix in finding.fix


def test_packages_are_compared_with_our_own_bounds(tmp_path, monkeypatch):
    needs = (
        "torch<2",
        "numpy>=1",
        "no-such-thing>=3",
        "decord>=9",
        "other>=1; sys_platform == 'none'",
        "x; extra=='dev'",
    )
    installed(tmp_path, "mbt_lightning", "0.1.0", *needs)
    installed(tmp_path, "lightning", "2.6.3")
    installed(tmp_path, "decord", "0.6.0")
    installed(tmp_path, "decord2", "3.4.0")
    monkeypatch.syspath_prepend(tmp_path)
    findings = list(doctor.check_packages())
    problems = [(f.state, f.what, f.found.partition(",")[0], f.fix) for f in findings if f.state != "ok"]

    assert [row for row in problems if row[1] == "torch"] == [
        ("broken", "torch", f"{metadata.version('torch')} installed", 'pip install "torch<2"')
    ]
    assert ("broken", "no-such-thing", "not installed", 'pip install "no-such-thing>=3"') in problems
    assert ("warning", "decord", "0.6.0 installed", 'pip install "decord>=9"') in problems
    assert [f.found for f in findings if f.what == "lightning"] == ["2.6.3 was a malicious upload"]
    assert any("decord and decord2 overwrite each other" in f.found for f in findings)
    assert any(f.what == "packages" and f.found.startswith("within their bounds: numpy ") for f in findings)
    assert len(problems) == 5


def test_a_cache_folder_that_cannot_be_written_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "new" / "cache"))
    assert [f.state for f in doctor.check_cache()] == ["ok"] and not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "file" / "cache"))
    (finding,) = doctor.check_cache()
    assert finding.state == "broken" and "set MBT_CACHE to a writable folder" in finding.fix


def test_limits_that_stop_workers_are_reported(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(doctor, "MIN_SHARED_BYTES", 1 << 60)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        found = {finding.what: finding for finding in doctor.check_machine()}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found["open files"] == Finding("warning", "open files", "at most 256", "ulimit -n 4096")
    if os.path.isdir("/dev/shm"):
        assert found["shared memory"].state == "warning" and "--shm-size" in found["shared memory"].fix


def test_what_was_found_before_a_crash_is_kept(monkeypatch, tmp_path):
    """torch works, torchaudio does not."""
    stub(tmp_path, "torchaudio", "import os; os.abort()")
    monkeypatch.syspath_prepend(tmp_path)
    works, broken = examine(CHECKS["torch, torchaudio"], timeout_seconds=120)
    assert (works.state, works.what) == ("ok", "torch")
    assert (broken.state, broken.found) == ("broken", "crashes (SIGABRT)")
