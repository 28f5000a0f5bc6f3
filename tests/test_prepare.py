"""`mbt prepare`: miniatures of the real data sets, from official rows and customary names to two steps of training."""

import json
import shutil
from pathlib import Path

import pytest

from mbt_lightning.cli import main
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.data.manifest import read_manifest

PROJECT = Path(__file__).parent.parent
EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
AUDIOSET_COUNTS = "# a\n# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4\n"
AUDIOSET_HEAD = "# YTID, start_seconds, end_seconds, positive_labels\n"
EPIC_LABELS = ["--labels", "EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv"]
IDS = ["--aaSYNTH00", "00012345678", "1234567e890", "aa_SYNTH-03"]


def epic_row(number: int, start: str, stop: str, verb: int, noun: int) -> str:
    return (
        f"P01_01_{number},P01,P01_01,,00:00:{start},00:00:{stop},0,9,take a,take,{verb},cup,{noun},"
        f"\"['cup']\",[{noun}]\n"
    )


def kinetics(split: str, ids: list[str], label: str = "air drumming") -> str:
    return "label,youtube_id,time_start,time_end,split\n" + "".join(
        f'"{label if i % 2 else "clapping"}",{name},0,10,{split}\n' for i, name in enumerate(ids)
    )


EPIC_CLASSES = "id,key,instances,category\r\n{}"
SETS: dict[str, tuple[str, list[str], dict[str, str], list[str]]] = {
    # data set -> recipe, words, text files, media names
    "audioset": (
        "audioset_mini",
        ["--annotations", "balanced_train_segments.csv", "eval_segments.csv", "--labels", "class_labels_indices.csv"],
        {
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/0aaa01,"Speech"\n1,/t/dd90001,"Beep, bleep"\n',
            "balanced_train_segments.csv": AUDIOSET_COUNTS
            + AUDIOSET_HEAD
            + "".join(
                f'{name}, 0.000, 10.000, "/m/0aaa01{",/t/dd90001" if i == 1 else ""}"\n'
                for i, name in enumerate(IDS[:3])
            ),
            "eval_segments.csv": f'# a\n# b\n{AUDIOSET_HEAD}{IDS[3]}, 30.000, 40.000, "/t/dd90001"\n',
        },
        [f"Y{IDS[0]}.mp4", f"{IDS[1]}_0.000.mp4", f"{IDS[2]}_0_10000.mp4", f"{IDS[3]}_30000_40000.mp4"],
    ),
    "vggsound": (
        "vggsound",
        ["--annotations", "vggsound.csv"],
        {
            "vggsound.csv": "".join(
                f"{n},{i},{'a b' if i % 2 else chr(34) + 'c, d' + chr(34)},{'test' if i == 3 else 'train'}\n"
                for i, n in enumerate(IDS)
            )
        },
        [f"video/{name}_{i:06d}.mp4" for i, name in enumerate(IDS)],
    ),
    "epic-kitchens": (
        "epic_kitchens",
        ["--annotations", "EPIC_100_train.csv", "EPIC_100_validation.csv", *EPIC_LABELS],
        {
            "EPIC_100_train.csv": EPIC + epic_row(0, "00.10", "01.10", 0, 1) + epic_row(1, "00.20", "01.20", 1, 0),
            "EPIC_100_validation.csv": EPIC + epic_row(2, "00.30", "01.30", 1, 1),
            "EPIC_100_verb_classes.csv": EPIC_CLASSES.format("\r\n".join(f"{i},verb{i},[],x" for i in range(97))),
            "EPIC_100_noun_classes.csv": EPIC_CLASSES.format("\r\n".join(f"{i},noun{i},[],x" for i in range(300))),
        },
        ["P01/videos/P01_01.MP4"],
    ),
    "kinetics400": (
        "kinetics400",
        ["--annotations", "train.csv", "val.csv"],
        {"train.csv": kinetics("train", IDS[:3]), "val.csv": kinetics("validate", IDS[3:])},
        [f"train/{name}_000000_000010.mp4" for name in IDS[:3]] + [f"val/{IDS[3]}_000000_000010.mp4"],
    ),
    "kinetics-sounds": (
        "kinetics_sounds",
        ["--annotations", "train.csv", "val.csv", "--variant", "31"],
        {
            "train.csv": kinetics("train", IDS[:3], "bowling"),
            "val.csv": kinetics("val", [IDS[0], IDS[3]], "bowling").replace(
                f'"clapping",{IDS[0]}', f'"tap dancing",{IDS[2]}'
            ),
        },
        [f"{name}_000000_000010.mp4" for name in IDS],
    ),
    "moments-in-time": (
        "moments_in_time",
        ["--annotations", "trainingSet.csv", "validationSet.csv", "--labels", "moments_categories.txt"],
        {
            "moments_categories.txt": "clapping,0\nplaying+music,1\n",
            "trainingSet.csv": "clapping/yt-a.b_1.mp4,clapping,3,0\nplaying+music/getty-x_4.mp4,playing+music,3,0\n",
            "validationSet.csv": "clapping/yt-c_2.mp4,clapping,3,0\n",
        },
        ["training/clapping/yt-a.b_1.mp4", "training/playing+music/getty-x_4.mp4", "validation/clapping/yt-c_2.mp4"],
    ),
}
TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--model.fusion_layer", "1", "--data.num_workers", "0"]
TINY += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--data.frame_size", "32", "--data.short_side", "36", "--data.num_frames", "2", "--data.batch_size", "2"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """Real encoded clips with pictures and sound."""
    manifest = demo_manifest(DemoSize(4, 1, 1), cache=tmp_path_factory.mktemp("prepare"))
    return sorted((manifest.parent / "clips").glob("*.mp4"))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lay_out(texts: dict[str, str], media: list[str], clips: list[Path]) -> None:
    for name, text in texts.items():
        Path(name).write_text(text)
    for i, name in enumerate(media):
        (Path("media") / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips[i % len(clips)], Path("media") / name)


@pytest.mark.parametrize("dataset", SETS)
def test_from_official_files_to_training(dataset, clips, capsys) -> None:
    recipe, words, texts, media = SETS[dataset]
    lay_out(texts, media, clips)
    main(["prepare", dataset, *words, "--media", "media", "--out", "manifest.parquet", "--min_part", "0.1"])
    manifest = read_manifest(Path("manifest.parquet"))
    assert manifest.left_out == {}, capsys.readouterr().out + Path("manifest.parquet.report.txt").read_text()
    assert manifest.splits["train"] and len(manifest.splits) == 2
    main(["stats", "manifest.parquet", "--num_workers", "1"])  # a recipe's spectrogram has the scale of its set
    point = PROJECT / "experiments" / "bottleneck_symmetric_b4_lf8.yaml"
    configs = ["--config", str(point), "--config", str(PROJECT / "experiments" / "recipes" / f"{recipe}.yaml")]
    held_out = next(split for split in manifest.splits if split != "train")
    splits = ["--data.val_split", "null", "--data.test_split", held_out, "--data.num_test_views", "1"]
    main(["fit", *configs, "--data.manifest", "manifest.parquet", *splits, *TINY])
    summary = json.loads(next(Path("runs").glob("*/*/summary.json")).read_text())
    assert summary["fit"]["steps"] == 2 and summary["test"]["loss"] > 0


class TestReport:
    def prepare(self, *more: str) -> None:
        main(["prepare", "vggsound", "--annotations", "vggsound.csv", "--media", "media", "--out", "m.csv", *more])

    @pytest.fixture
    def holes(self, clips) -> None:
        """A missing file, a broken one, an unreadable row, and a source in two splits."""
        _, _, texts, media = SETS["vggsound"]
        text = texts["vggsound.csv"] + f"{IDS[3]},7,a b,train\nbad,row\n"
        lay_out({"vggsound.csv": text}, [*media[:2], f"video/{IDS[3]}_000003.mp4", f"video/{IDS[3]}_000007.mp4"], clips)
        Path(f"media/video/{IDS[1]}_000001.mp4").write_bytes(b"junk" * 99)

    def test_every_loss_is_told(self, holes, capsys) -> None:
        self.prepare("--min_part", "0.1")
        manifest = read_manifest(Path("m.csv"))
        assert manifest.left_out == {"missing": 1, "unreadable": 1}
        report = Path("m.csv.report.txt").read_text()
        assert "vggsound.csv:6: refused: 2 columns where 4 belong" in report
        assert f"vggsound.csv:3: {IDS[2]}_000002: missing" in report
        assert f"vggsound.csv:2: {IDS[1]}_000001: unreadable" in report
        assert f"leak: {IDS[3]} (test at vggsound.csv:4, train at vggsound.csv:5)" in report
        out = " ".join(capsys.readouterr().out.split())
        assert "rows refused: 1" in out and "sources in two splits: 1" in out and "missing" in out

    def test_limits_end_the_program(self, holes, capsys) -> None:
        for words, told in (
            (["--refuse_leaks", "true"], "1 sources stand in two splits"),
            (["--max_lost", "0.1"], "2 of 5 clips are lost, more than max_lost 0.1"),
            (["--needs", "[smell]"], "needs is ['smell']: give video, audio or both"),
            (["--min_part", "0"], "min_part is 0.0: give a part above 0"),
            (["--media", "nowhere"], "nowhere"),
        ):
            with pytest.raises(SystemExit) as stop:
                self.prepare("--min_part", "0.1", *words)
            assert stop.value.code == 2
            assert told in capsys.readouterr().err

    def test_a_second_run_probes_nothing_anew(self, holes, capsys) -> None:
        self.prepare("--min_part", "0.1")
        first = Path("m.csv").read_text()
        cached = Path("m.csv.probed.jsonl").read_text()
        self.prepare("--min_part", "0.1")
        assert Path("m.csv").read_text() == first and Path("m.csv.probed.jsonl").read_text() == cached

    def test_clips_too_short_are_left_out(self, holes) -> None:
        self.prepare()  # 1.6 s of a segment of 10
        assert read_manifest(Path("m.csv")).left_out["too_short"] == 3
