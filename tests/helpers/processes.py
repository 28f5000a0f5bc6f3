"""Whole runs as processes of their own, for several test files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
from paths import PROJECT

TINY = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "1", "--model.drop_path", "0.2"]
PLAIN = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.batch_size", "8"]
DDP = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def command(manifest: Path, runs: Path, *more: str) -> list[str]:
    point = ["--config", "experiments/bottleneck_b4_lf8.yaml", "--data.manifest", str(manifest), "--runs", str(runs)]
    return [sys.executable, "-m", "mbt_lightning", "fit", *point, *TINY, *PLAIN, "--data.num_workers", "0", *more]


def environment() -> dict[str, str]:
    """The variables of this process, without what an earlier run in it has left."""
    left = ("PL_", "MBT_", "LOCAL_RANK", "MASTER_", "WORLD_SIZE", "NODE_RANK")
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parent)])
    return {k: v for k, v in os.environ.items() if not k.startswith(left)} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
    }


def start(arguments: list[str], **variables: str) -> subprocess.Popen:
    """Start a run as the leader of a process group, with some environment variables more."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(arguments, cwd=PROJECT, env=environment() | variables, start_new_session=True, **pipes)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output
    return output


def only(paths) -> Path:
    paths = list(paths)
    assert len(paths) == 1, paths
    return paths[0]


def wait_for(is_there: Callable[[], object], process: subprocess.Popen) -> None:
    """Until something has come to be, or the process has ended without."""
    while not is_there() and process.poll() is None:
        time.sleep(0.01)


def members(process: subprocess.Popen) -> dict[int, list[str]]:
    """The living processes of a group that `start` has made, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                words = (folder / "cmdline").read_text()  # empty once its memory is freed, before it is a zombie
                if int(group) == process.pid and state != "Z" and words:
                    found[int(folder.name)] = words.split("\0")
            except OSError:  # has just ended
                continue
    return found


def ranks(process: subprocess.Popen) -> list[int]:
    """Process ids of a run's ranks, in order."""
    pids = [pid for pid in members(process) if (Path("/proc") / str(pid) / "environ").is_file()]
    by_rank = {}
    for pid in sorted(pids):
        variables = (Path("/proc") / str(pid) / "environ").read_text().split("\0")
        rank = next((v.split("=")[1] for v in variables if v.startswith("LOCAL_RANK=")), "0")
        by_rank.setdefault(int(rank), pid)
    return [by_rank[rank] for rank in sorted(by_rank)]


def kill_group(process: subprocess.Popen) -> None:
    """Kill a run with all that belongs to it."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class SendSignal(L.Callback):
    """Sends a signal to its own process at the place given by the variable SEND_SIGNAL: `hook count rank number`."""

    def __init__(self) -> None:
        hook, self.count, self.rank, self.number = (os.environ.get("SEND_SIGNAL") or "- 0 0 0").split()
        setattr(self, hook, self.hook)

    def hook(self, trainer: L.Trainer, *args: object, **kwargs: object) -> None:
        """Count the calls on the rank that is meant; `group` is all processes, by the first one's count."""
        if str(trainer.global_rank) == self.rank.replace("group", "0"):
            self.count = int(self.count) - 1
            if self.count == 0:
                whom = -os.getpgrp() if self.rank == "group" else os.getpid()
                # From another process: the workers obey their own parent, and nobody else.
                code = (
                    f"import os, signal; signal.signal({self.number}, signal.SIG_IGN); os.kill({whom}, {self.number})"
                )
                subprocess.run([sys.executable, "-S", "-c", code], check=True)


class Sleep(L.Callback):
    """Makes the first step of a training a long one."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: object) -> None:
        """Sleep, whatever signal wakes one up."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.1)
