"""`mbt subset`: the rule against a plain reading of it, lists of ids, and where media paths lead afterwards."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

from mbt_lightning.cli.main import main
from mbt_lightning.data.balanced_subset import choose_balanced, list_hash, seeded_order
from mbt_lightning.data.manifest.manifest import ManifestRow, read_manifest, write_manifest
from mbt_lightning.errors import UserError

CLASSES = tuple(f"class {i:02d}" for i in range(12))
NUM_TRAIN, NUM_TEST = 400, 40


def row(clip_id: str, labels: list[str], split: str = "train", status: str = "ok") -> ManifestRow:
    return ManifestRow(clip_id, clip_id[:5], 0.0, 10.0, f"clips/{clip_id}.mp4", None, 0.5, 9.5, labels, split, status)


@pytest.fixture(scope="module")
def rows() -> list[ManifestRow]:
    """A skewed set: a clip has one to three of 12 classes, each half as common as the one before; some are missing."""
    numbers = random.Random(0)
    found = []
    for i in range(NUM_TRAIN + NUM_TEST):
        labels = {min(int(numbers.expovariate(0.5)), 11) for _ in range(numbers.randint(1, 3))}
        split, status = "train" if i < NUM_TRAIN else "test", "missing" if i % 10 == 3 else "ok"
        found.append(row(f"v{i // 2:04d}_{i % 2}", [CLASSES[c] for c in sorted(labels)], split, status))
    found.append(row("v9999_0", []))  # without a label it is never chosen
    return found


@pytest.fixture
def source(rows, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_manifest(Path("full.parquet"), rows, CLASSES, about={"dataset": "made up", "official": {"train": 999}})
    return Path("full.parquet")


def plain(rows: list[ManifestRow], num_clips: int, seed: int) -> tuple[list[str], int]:
    """The rule, word by word."""
    pool = [r for r in rows if r.split == "train" and r.status == "ok"]
    pool.sort(key=lambda r: hashlib.blake2b(f"{seed} {r.clip_id}".encode(), digest_size=8).digest())
    of = {name: [r for r in pool if name in r.labels] for name in CLASSES}
    chosen: list[ManifestRow] = []
    for n in range(1, len(pool) + 1):
        for name in sorted(CLASSES, key=lambda name: (len(of[name]), CLASSES.index(name))):
            left = [r for r in of[name] if r not in chosen]
            if sum(name in r.labels for r in chosen) < n and left:
                chosen.append(left[0])
            if len(chosen) == num_clips:
                return [r.clip_id for r in chosen], n
    raise AssertionError("too many are wanted")


@pytest.mark.parametrize("num_clips", [1, 7, 100, 250, 360])
def test_the_rule_is_followed(num_clips, rows, source) -> None:
    main(["subset", "full.parquet", "--out", "part.parquet", "--num_clips", str(num_clips), "--seed", "5"])
    part = read_manifest("part.parquet")
    expected, n = plain(rows, num_clips, seed=5)
    assert {e.clip_id for e in part.splits["train"]} == set(expected)
    about = part.metadata["subset"]
    assert about["per_class"] == n and about["list_hash"] == list_hash(expected)
    assert (about["method"], about["seed"], about["num_clips"]) == ("balanced", 5, num_clips)


def test_a_smaller_subset_is_a_part_of_a_larger_one_whatever_the_order_of_the_rows(rows) -> None:
    def choose(rows: list[ManifestRow], num_clips: int, seed: int = 0) -> set[str]:
        pool = [r for r in rows if r.split == "train" and r.status == "ok"]
        clips, classes = np.array([(i, CLASSES.index(c)) for i, r in enumerate(pool) for c in r.labels]).T
        order = seeded_order([r.clip_id for r in pool], seed)
        return {pool[i].clip_id for i in choose_balanced(order, clips, classes, len(CLASSES), num_clips).clips}

    assert len(choose(rows, 60)) == 60 and choose(rows, 60) < choose(rows, 200)
    assert choose(rows[::-1], 200) == choose(rows, 200) != choose(rows, 200, seed=1)


def test_the_rest_of_the_manifest_stays(rows, source) -> None:
    main(["subset", "full.parquet", "--out", "part.csv", "--num_clips", "120"])
    full, part = read_manifest("full.parquet"), read_manifest("part.csv")
    assert list(part.splits["test"]) == list(full.splits["test"]) and part.classes == full.classes
    assert part.counts["test"] == full.counts["test"] and part.coverage["train"] == (120, 120)
    kept = {e.clip_id: e for e in full.splits["train"]}
    assert all(e == kept[e.clip_id] for e in part.splits["train"])
    about = part.metadata
    assert about["dataset"] == "made up" and about["official"] == {"train": 120, "test": NUM_TEST}
    positives = {c: sum(c in e.labels for e in part.splits["train"]) for c in CLASSES}
    assert about["subset"]["positives"] == positives
    assert about["subset"]["source"] == {"manifest": "full.parquet", "hash": full.digest}

    main(["subset", "part.csv", "--out", "less.jsonl", "--num_clips", "50"])  # a part of a part tells of both
    assert read_manifest("less.jsonl").metadata["subset"]["source"]["subset"] == about["subset"]


class TestIds:
    def test_clips_and_sources_are_found_and_what_is_missing_is_told(self, source, capsys) -> None:
        Path("ids.txt").write_text("v0000_0\nv0001\n\n-gone123456\nv0215\nv0000_0\n")
        main(["subset", "full.parquet", "--out", "part.parquet", "--ids", "ids.txt"])
        part = read_manifest("part.parquet")
        assert [e.clip_id for e in part.splits["train"]] == ["v0000_0", "v0001_0"]
        assert part.counts["train"] == {"ok": 2, "missing": 1}  # v0001_1 is on the list, and unusable
        assert Path("part.parquet.report.txt").read_text().splitlines() == [
            "ids.txt:4: -gone123456: not in the manifest",
            "ids.txt:5: v0215: in split test only",
        ]
        out = capsys.readouterr().out
        assert "ids: 2 of 4 in ids.txt" in out and "training clips: 2 usable of 3" in out
        assert "ids without a training clip: 2" in out
        about = part.metadata["subset"]
        assert (about["method"], about["ids"], about["found"], about["usable"]) == ("ids", 4, 2, 2)

    def test_a_list_without_a_hit_is_refused(self, source, capsys) -> None:
        Path("ids.txt").write_text("v0215_0\n")
        assert "none of its 1 ids is the clip_id or source_id of a training clip" in refused(capsys, "--ids", "ids.txt")
        assert not Path("part.csv").exists()


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["subset", "full.parquet", "--out", "part.csv", *words])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Give either --ids FILE or --num_clips N"),
        (["--num_clips", "3", "--ids", "ids.txt"], "Give either --ids FILE or --num_clips N"),
        (["--num_clips", "361"], "num_clips is 361: give 1 to 360"),
        (["--num_clips", "0"], "num_clips is 0: give 1 to 360"),
        (["--ids", "nowhere.txt"], "--ids nowhere.txt: no such file"),
        (["--num_clips", "3", "--out", "part.txt"], "a manifest ends in"),
        (["--num_clips", "3", "--out", "./full.parquet"], "is the manifest itself; give another name"),
    ],
)
def test_what_makes_no_sense_is_refused(words, told, source, capsys) -> None:
    before = source.read_bytes()
    assert told in refused(capsys, *words)
    assert source.read_bytes() == before


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_media_paths_lead_to_the_files_from_elsewhere(suffix, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path / "far" / "c.mp4")
    clips = [row("a", ["x"]), row("b", ["x"])._replace(video="b.mp4", audio="sound/b.wav")]
    clips.append(row("c", ["y"])._replace(video=absolute))
    write_manifest(Path(f"data/set/full{suffix}"), clips, ("x", "y"))
    expected = [str(tmp_path / "data/set" / name) for name in ("clips/a.mp4", "b.mp4")] + [absolute]
    for out in (f"data/up{suffix}", f"lists/other{suffix}", f"data/set/beside{suffix}"):
        main(["subset", f"data/set/full{suffix}", "--out", out, "--num_clips", "3"])
        examples = list(read_manifest(tmp_path / out).splits["train"])
        assert [str(Path(e.video)) for e in examples] == expected
        assert examples[1].audio == str(tmp_path / "data/set/sound/b.wav") and examples[1].clip_id == "b"

    main(["subset", f"data/set/full{suffix}", "--out", f"kept{suffix}", "--num_clips", "3", "--media_root", "data/set"])
    kept = read_manifest(f"kept{suffix}", media_root="data/set")
    assert [e.video for e in kept.splits["train"]] == ["data/set/clips/a.mp4", "data/set/b.mp4", absolute]


def test_more_clips_than_have_a_label_are_refused() -> None:
    with pytest.raises(UserError, match="num_clips is 3: give 1 to 2"):
        choose_balanced(np.arange(3), np.array([0, 2]), np.array([0, 0]), 1, 3)
