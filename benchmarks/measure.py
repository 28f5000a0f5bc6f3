"""What the benchmarks share: interleaved timing, a Markdown table, and the record of a run.

A single time means little on a shared machine. So all rows of a table are timed in turns, in a new order for each
repetition, and compared only within one run: other load affects all rows alike, and the minimum least. On the CPU,
ratios compare CPU time, which excludes waiting for a core; with one thread it is the work itself (several threads also
count the time that they wait for each other).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of one row, one value a repetition: by the clock, and busy (CPU time; on a GPU the clock again)."""

    wall: np.ndarray
    busy: np.ndarray

    def scaled(self, factor: float) -> Times:
        """The times of `factor` times as much work."""
        return Times(self.wall * factor, self.busy * factor)

    def __add__(self, other: Times) -> Times:
        return Times(self.wall + other.wall, self.busy + other.busy)

    def cells(self) -> list[str]:
        """Cells for the columns of `CLOCKS`."""
        return [
            f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
            for value in (self.wall.min(), np.median(self.wall), self.busy.min())
        ]

    def over(self, other: Times | None) -> str:
        """Ratio of the least busy times and, in brackets, the median of the ratios within a repetition."""
        if other is None:
            return "–"
        return f"{self.busy.min() / other.busy.min():.2f} ({np.median(self.busy / other.busy):.2f})"


CLOCKS = ["ms min", "ms median", "busy ms min"]


def interleaved(
    tasks: dict[str, Callable[[], object]], repeats: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, Times]:
    """Time every task once per repetition, in a new random order, after `warm_up` repetitions that do not count."""
    on_gpu = device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    busy = time.perf_counter if on_gpu else time.process_time
    order, rows = list(tasks), {name: [] for name in tasks}
    shuffle = random.Random(0).shuffle
    for repetition in range(-warm_up, repeats):
        shuffle(order)
        for name in order:
            wait()
            wall, used = time.perf_counter(), busy()
            tasks[name]()
            wait()
            if repetition >= 0:
                rows[name].append((time.perf_counter() - wall, busy() - used))
    return {name: Times(*(1000 * np.array(values).T)) for name, values in rows.items()}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column aligned left, numbers right."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arguments(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have; each adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timed repetitions, default {repeats}")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, default 1")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--save", action="store_true", help="append the tables to benchmarks/results/")
    parser.add_argument("--note", default="", help="note for the record, e.g. what else the machine was doing")
    return parser


def report(name: str, text: str, options: argparse.Namespace, packages: Sequence[str]) -> None:
    """Print the tables under a heading with date and machine; with `--save` append them to results/<name>.md."""
    facts = [processor(), f"{os.cpu_count()} CPUs", f"{options.threads} thread(s)", platform.system()]
    if options.device.startswith("cuda"):
        facts.insert(0, torch.cuda.get_device_name(options.device))
    facts += [f"Python {platform.python_version()}", *(f"{p} {installed(p)}" for p in packages)]
    if "repeats" in options:  # times were measured
        facts += [f"{options.repeats} repetitions", f"load average {os.getloadavg()[0]:.1f} at the end"]
    note = f"\n\nNote: {options.note}." if options.note else ""
    record = f"## {date.today()}, {options.device}\n\n{', '.join(facts)}.{note}\n\n{text}\n"
    print(record)
    if options.save:
        file = Path(__file__).parent / "results" / f"{name}.md"
        file.parent.mkdir(exist_ok=True)
        begin = "" if file.exists() else f"# Results of benchmarks/{name}.py\n"
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{begin}\n{record}")


def processor() -> str:
    """The CPU's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str:
    """Version of a package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
