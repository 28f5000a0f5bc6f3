"""What `mbt prepare` costs at AudioSet's full size, in seconds and memory, with each task in a new process.

    python benchmarks/prepare.py [--repeats 3] [--part 1.0] [--save]

The files are made here, with the official format and number of rows (22,160 + 2,041,789 + 20,371 clips of 527 made-up
classes, the most common thousands of times as frequent as the rarest, two labels per clip on average). Tasks: parsing
them; the whole program with an empty folder of media, so that every clip is missing, to each of the three formats; and
an index of two million file names, in which the files of all clips are looked up. For comparison: only reading the
lines (limit), and Python's own CSV reader keeping the rows, without checks (peer).

Memory is the peak of the process; CPU time includes system time and excludes waiting for a core, which the clock
includes. The row `nothing` is the cost of the imports, which every row includes. Written are the manifest and the
report, which lists every clip here.
"""

from __future__ import annotations

import csv
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

ROWS = {"balanced_train_segments.csv": 22_160, "unbalanced_train_segments.csv": 2_041_789, "eval_segments.csv": 20_371}
NUM_CLASSES = 527
SUFFIXES = (".parquet", ".csv", ".jsonl")


def make(folder: Path, part: float) -> None:
    """Write the lists and their class list, or the first `part` of them."""
    chance = random.Random(0)
    mids = [f"/m/0{number:05x}" for number in range(NUM_CLASSES)]
    with open(folder / "class_labels_indices.csv", "w") as file:
        file.write("index,mid,display_name\n")
        file.writelines(f'{i},{mid},"Class {i}, made up"\n' for i, mid in enumerate(mids))
    commonness = list(accumulate(1 / (rank + 1) ** 1.3 for rank in range(NUM_CLASSES)))
    letters, ids = string.ascii_letters + string.digits + "-_", set[str]()
    for name, official in ROWS.items():
        with open(folder / name, "w") as file:
            file.write("# Segments csv created for a benchmark\n# all rows are made up\n")
            file.write("# YTID, start_seconds, end_seconds, positive_labels\n")
            for _ in range(round(official * part)):
                while (video := "".join(chance.choices(letters, k=11))) in ids:
                    pass
                ids.add(video)
                start = 10 * chance.randrange(50)
                count = chance.choices((1, 2, 3, 5), (40, 35, 15, 10))[0]
                labels = sorted(set(chance.choices(mids, cum_weights=commonness, k=count)))
                file.write(f'{video}, {start}.000, {start + 10}.000, "{",".join(labels)}"\n')


# Tasks; each gets the folder with the lists and an output folder ------------------------------------------------------


def nothing(lists: Path, out: Path) -> None:
    pass


def lines(lists: Path, out: Path) -> int:
    return sum(len((lists / name).read_text(encoding="utf-8").splitlines()) for name in ROWS)


def csv_reader(lists: Path, out: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    for name in ROWS:
        with open(lists / name, newline="", encoding="utf-8") as file:
            rows += csv.reader(file, skipinitialspace=True)
    return rows


def parse(lists: Path, out: Path) -> list:
    from mbt_lightning.datasets import DATASETS

    return DATASETS["audioset"].parse([lists / name for name in ROWS], [lists / "class_labels_indices.csv"]).clips


def prepare_to(suffix: str, lists: Path, out: Path) -> None:
    from mbt_lightning.cli.prepare import main

    media = out / "media"
    media.mkdir()
    words = ["audioset", "--annotations", *(str(lists / name) for name in ROWS)]
    words += ["--labels", str(lists / "class_labels_indices.csv"), "--media", str(media)]
    main([*words, "--out", str(out / f"m{suffix}")])


def media_names(lists: Path) -> Iterator[str]:
    """A file name for every clip, in three of the usual forms."""
    for name in ROWS:
        with open(lists / name, encoding="utf-8") as file:
            for number, line in enumerate(file):
                if not line.startswith("#"):
                    video, start, end, *_ = line.split(", ")
                    times = ("", f"_{start}", f"_{start[:-4]}000_{end[:-4]}000")[number % 3]
                    yield f"{name[:-4]}/{video}{times}.mp4"


def index(lists: Path, out: Path) -> object:
    from mbt_lightning.datasets.match import MediaIndex

    return MediaIndex(out, media_names(lists))


def index_and_match(lists: Path, out: Path) -> None:
    clips, found = parse(lists, out), index(lists, out)
    matches = [found.match(clip) for clip in clips]
    assert all(match.video for match in matches)


TASKS = {
    "nothing": nothing,
    "limit: lines read": lines,
    "peer: csv.reader, rows kept": csv_reader,
    "parse": parse,
    **{f"prepare to {suffix}": lambda *folders, suffix=suffix: prepare_to(suffix, *folders) for suffix in SUFFIXES},
    "index of the names": index,
    "parse, index and match": index_and_match,
}


def peak_bytes() -> int:
    """Peak memory of this process; that of `getrusage` would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def run_here(task: str, lists: Path) -> None:
    """Run a task in this process, and print its cost."""
    import mbt_lightning.cli.prepare  # noqa: F401

    with tempfile.TemporaryDirectory(dir=lists) as out:
        wall, cpu = time.perf_counter(), time.process_time()
        kept = TASKS[task](lists, Path(out))
        spent = time.perf_counter() - wall, time.process_time() - cpu
        written = sum(path.stat().st_size for path in Path(out).glob("m*") if path.is_file())
        print(json.dumps([*spent, peak_bytes(), written]))
        del kept


def run_apart(*words: str) -> str:
    """Run this file in a new process; returns the last line that it prints."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def main() -> None:
    import measure

    parser = measure.arguments(__doc__, repeats=3)
    parser.add_argument("--part", type=float, default=1.0, help="part of the rows, default all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as lists:
        run_apart("make", lists, str(options.part))
        clips = round(sum(ROWS.values()) * options.part)
        runs: dict[str, list[list[float]]] = {task: [] for task in TASKS}
        for _ in range(options.repeats):
            for task in TASKS:
                runs[task].append(json.loads(run_apart("run", task, lists)))
    rows = []
    for task, measured in runs.items():
        walls, cpus, peaks, written = zip(*measured, strict=True)
        sizes = [f"{max(peaks) / 2**20:.0f}", f"{max(written) / 1e6:.0f}" if max(written) else "–"]
        rows.append([task, f"{min(cpus):.1f}", f"{min(walls):.1f}", f"{max(walls):.1f}", *sizes])
    header = ["task", "CPU s min", "s min", "s max", "peak MiB", "written MB"]
    text = f"### {clips:,} clips\n\n{measure.table(header, rows)}"
    measure.report("prepare", text, options, ["pyarrow"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["run"]:
        run_here(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
