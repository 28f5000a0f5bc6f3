"""What `mbt table` costs with a thousand runs, with each task in a new process.

    python benchmarks/table.py [--repeats 3] [--runs 1000] [--save]

The folders are made here: the resolved configuration of an experiment as the program writes it, a summary with all
scores of the embedded clips, 100 rows of metrics. Scores and costs are made up. Varied are strategy, L_f, window, size
and seed, so that the table has hundreds of rows; one run in fifty failed, one in fifty differs in the number of epochs.

CPU time includes system time and excludes waiting for a core, which the clock includes.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import arguments, report

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.parser import as_plain, build_parser, parse
from mbt_lightning.config.settings import flat, nested

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "bottleneck_b4_lf8.yaml"
FUSIONS = {
    "Bottleneck": {"num_bottlenecks": 4, "update": "sequential"},
    "CrossAttention": {},
    "JointSelfAttention": {},
}
TASKS = {
    "no figures": ["--no-figures"],
    "with figures": [],
    "with figures and page": ["--html"],
    "with page, no figures": ["--html", "--no-figures"],
}
GROUPS = ("", "/video", "/audio", "/relation")


def make(folder: Path, number: int) -> None:
    """Write the run folders."""
    import yaml

    parser = build_parser("fit")
    settings = flat(as_plain(parser, parse(parser, expand("fit", ["--config", str(EXPERIMENT)]))))
    chance = random.Random(0)
    layers, windows, widths = range(0, 12, 2), (0.8, 1.2, 1.6, 2.4, 3.2), (32, 48, 64, 96)
    points = itertools.product(range(3), widths, windows, layers, FUSIONS)
    for count, (seed, width, window, layer, fusion) in enumerate(itertools.islice(points, number)):
        own = {name: value for name, value in settings.items() if not name.startswith("model.fusion.")}
        own |= {"seed_everything": seed, "model.fusion_layer": layer, "data.window_seconds": window}
        own |= {"model.size.dim": width, "model.fusion.class_path": f"mbt_lightning.{fusion}"}
        own |= {f"model.fusion.init_args.{name}": value for name, value in FUSIONS[fusion].items()}
        own["trainer.max_epochs"] = 16 if count % 50 == 1 else 8
        run = folder / "made-up" / f"{count:04}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(nested(own), sort_keys=False))
        state = {"state": "finished", "pid": 1, "host": "made-up", "message": "", "exit_code": 0}
        if count % 50 == 0:
            (run / "state.json").write_text(
                json.dumps(state | {"state": "failed", "message": "made up", "exit_code": 1})
            )
            continue
        (run / "state.json").write_text(json.dumps(state))
        gflops = width * window / 3000 * (1 + list(FUSIONS).index(fusion) / 10 + (12 - layer) / 100)
        names = [f"{m}/mAP{group}" for m in ("rgb", "spectrogram", "fused") for group in GROUPS]
        scores = {name: chance.uniform(0.5, 0.9) for name in names}
        scores |= {"score": scores["fused/mAP"], "loss": 3.0, "clips": 512.0, "bad_clips": 0.0}
        data = {
            "manifest": "manifest.csv",
            "hash": "34c0ae25bf84ffff",
            "classes": 12,
            "clips": {"train": 1024, "test": 512},
        }
        summary = {"run": run.name, "seed": seed, "parameters": width**2 * 300}
        summary |= {"gflops_per_clip": gflops, "gflops_as_coded": 1.1 * gflops}
        summary |= {"peak_memory_gb": 1.0, "git_commit": "0" * 40, "versions": {"torch": "2.12.1"}, "test": scores}
        summary |= {"data": data | {"coverage": {"train": 1.0, "test": 1.0}}}
        summary |= {"fit": {"epochs": 8, "steps": 256, "finished": True, "training_seconds": 60.0}}
        (run / "summary.json").write_text(json.dumps(summary, indent=2))
        with open(run / "metrics.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "epoch", "train/loss", *(f"val/{name}" for name in scores)])
            for step in range(100):
                rows.writerow([step, step // 12, chance.random(), *("" if step % 12 else x for x in scores.values())])


def measure(runs: Path, out: Path, task: str) -> tuple[float, float]:
    """Wall time and CPU time of one call in a separate process, in seconds."""
    command = [sys.executable, "-m", "mbt_lightning", "table", str(runs), "--out", str(out), *TASKS[task]]
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--runs", type=int, default=1000, help="number of run folders, at most 1080, default 1000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "runs", options.runs)
        best = {task: [float("inf")] * 2 for task in TASKS}
        page = 0.0
        written = Path(place) / "out" / "index.html"
        for _ in range(options.repeats):
            for task in random.sample(list(TASKS), len(TASKS)):
                found = measure(Path(place) / "runs", Path(place) / "out", task)
                best[task] = [min(pair) for pair in zip(best[task], found, strict=True)]
                if written.is_file():  # a call without --html removes it
                    page = written.stat().st_size / 1e6
    lines = ["| `mbt table` | s | CPU s |", "|---|---:|---:|"]
    lines += [f"| {task} | {wall:.2f} | {cpu:.2f} |" for task, (wall, cpu) in best.items()]
    text = f"{options.runs} run folders; the page has {page:.1f} MB. Limit: 10 s.\n\n" + "\n".join(lines)
    report("table", text, options, ["pyyaml", "pandas", "matplotlib", "scipy", "bokeh"])


if __name__ == "__main__":
    main()
