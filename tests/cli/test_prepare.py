"""`mbt prepare`: miniatures of all data sets, from official rows and customary names to two steps of training."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from media import Recipe, write_clip
from package import defined
from paths import EXPERIMENTS

from mbt_lightning.cli.main import main
from mbt_lightning.data.manifest.manifest import read_manifest
from mbt_lightning.datasets import DATASETS
from mbt_lightning.datasets.base import DataSet

IDS = ["--aaSYNTH00", "00012345678", "1234567e890", "aa_SYNTH-03"]
"""YouTube ids like an option, with leading zeros, like a number, and with what names are split at."""


@dataclass(frozen=True)
class Miniature:
    """A data set of a few clips.

    Args:
        recipe: the recipe that trains on it.
        annotations: official lists by name.
        media: customary names of all files.
        scored: the split of the test that follows training, as the recipe has it, and its number of clips.
        labels: class lists by name.
        options: of `mbt prepare`.
    """

    recipe: str
    annotations: dict[str, str]
    media: Sequence[str]
    scored: tuple[str, int]
    labels: dict[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        """The files and options as words of the command."""
        files = {"--annotations": self.annotations, "--labels": self.labels}
        return [word for option, names in files.items() if names for word in (option, *names)] + [*self.options]


AUDIOSET_HEAD = "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"
EPIC_HEAD = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def epic(video: str, *actions: tuple[int, int]) -> str:
    """Segments of a video, each with its verb and noun."""
    return EPIC_HEAD + "".join(
        f"{video}_{i},{video[:3]},{video},,00:00:00.{i}0,00:00:01.{i}0,0,9,take a,take,{verb},cup,{noun},\"['cup']\","
        f"[{noun}]\n"
        for i, (verb, noun) in enumerate(actions)
    )


def epic_classes(kind: str, count: int) -> str:
    return "\r\n".join(["id,key,instances,category", *(f"{i},{kind}{i},[],x" for i in range(count))])


def kinetics(split: str, *rows: tuple[str, str]) -> str:
    return "label,youtube_id,time_start,time_end,split\n" + "".join(
        f'"{label}",{video},0,10,{split}\n' for label, video in rows
    )


SETS = {
    "audioset": Miniature(
        "audioset_mini",
        {
            "balanced_train_segments.csv": AUDIOSET_HEAD
            + f'{IDS[0]}, 0.000, 10.000, "/m/0aaa01"\n{IDS[1]}, 0.000, 10.000, "/m/0aaa01,/t/dd90001"\n'
            + f'{IDS[2]}, 0.000, 10.000, "/m/0aaa01"\n',
            "eval_segments.csv": AUDIOSET_HEAD + f'{IDS[3]}, 30.000, 40.000, "/t/dd90001"\n',
        },
        [f"Y{IDS[0]}.mp4", f"{IDS[1]}_0.000.mp4", f"{IDS[2]}_0_10000.mp4", f"{IDS[3]}_30000_40000.mp4"],
        ("test", 1),
        {"class_labels_indices.csv": 'index,mid,display_name\n0,/m/0aaa01,"Speech"\n1,/t/dd90001,"Beep, bleep"\n'},
        ["--variant", "mini"],
    ),
    "vggsound": Miniature(
        "vggsound",
        {
            "vggsound.csv": f'{IDS[0]},0,a b,train\n{IDS[1]},1,"c, d",train\n{IDS[2]},2,a b,train\n'
            f'{IDS[3]},3,"c, d",test\n'
        },
        [f"video/{name}_{i:06d}.mp4" for i, name in enumerate(IDS)],
        ("test", 1),
    ),
    "epic-kitchens": Miniature(
        "epic_kitchens",
        {
            "EPIC_100_train.csv": epic("P01_01", (0, 1), (1, 0), (96, 299)),
            "EPIC_100_validation.csv": epic("P02_01", (1, 1)),
        },
        ["EPIC-KITCHENS/P01/videos/P01_01.MP4", "EPIC-KITCHENS/P02/videos/P02_01.MP4"],
        ("val", 1),
        {
            "EPIC_100_verb_classes.csv": epic_classes("verb", 97),
            "EPIC_100_noun_classes.csv": epic_classes("noun", 300),
        },
    ),
    "kinetics400": Miniature(
        "kinetics400",
        {
            "train.csv": kinetics("train", ("clapping", IDS[0]), ("air drumming", IDS[1])),
            "val.csv": kinetics("validate", ("clapping", IDS[2])),
            "test.csv": f"youtube_id,time_start,time_end,split\n{IDS[3]},0,10,test\n",
        },
        [f"{'train' if i < 2 else 'val'}/{name}_000000_000010.mp4" for i, name in enumerate(IDS)],
        ("val", 1),
    ),
    "kinetics-sounds": Miniature(
        "kinetics_sounds",
        {
            "train.csv": kinetics("train", ("bowling", IDS[0]), ("tap dancing", IDS[1]), ("clapping", IDS[3])),
            "val.csv": kinetics("val", ("bowling", IDS[2])),
        },
        [f"bowling/{name}_000000_000010.mp4" for name in IDS[:3]],
        ("test", 1),
    ),
    "moments-in-time": Miniature(
        "moments_in_time",
        {
            "trainingSet.csv": "clapping/yt-a.b_1.mp4,clapping,3,0\nplaying+music/getty-x_4.mp4,playing+music,3,0\n",
            "validationSet.csv": "clapping/yt-c_2.mp4,clapping,3,0\n",
        },
        ["training/clapping/yt-a.b_1.mp4", "training/playing+music/getty-x_4.mp4", "validation/clapping/yt-c_2.mp4"],
        ("val", 1),
        {"moments_categories.txt": "clapping,0\nplaying+music,1\n"},
    ),
    "cremad": Miniature(
        "cremad",
        {
            "train.csv": "1001_DFA_ANG_XX,ANG\r\n1001_IEO_NEU_XX,NEU\r\n1002_IEO_SAD_HI,SAD\r\n",
            "test.csv": "1001_TIE_HAP_XX,HAP\r\n",
        },
        [
            f"{folder}/{name}"
            for stem in ("1001_DFA_ANG_XX", "1001_IEO_NEU_XX", "1002_IEO_SAD_HI", "1001_TIE_HAP_XX")
            for folder, name in (("VideoFlash", f"{stem}.flv"), ("AudioWAV", f"{stem}.wav"))
        ],
        ("test", 1),
    ),
    "ave": Miniature(
        "ave",
        {
            "trainSet.txt": f"Race car, auto racing&{IDS[0]}&good&2&7\nChurch bell&{IDS[1]}&good&0&0\n",
            "valSet.txt": f"Church bell&{IDS[2]}&good&0&10\n",
            "testSet.txt": f"Race car, auto racing&{IDS[3]}&good&0&10\n",
        },
        [f"AVE/{name}.mp4" for name in IDS],
        ("test", 1),
    ),
    "grid": Miniature(
        "audioset_mini",
        {},
        ["s8/bbaf2n.mp4", "s8/lgwmzs.mp4", "s1/video/mpg_6000/pgij8n.mp4"],
        ("test", 1),
        options=["--variant", "words-by-talker"],
    ),
    "folder": Miniature(
        "vggsound",
        {},
        ["train/dog/a.mp4", "train/cat/b.mp4", "train/cat/b.wav", "test/cat/c.mp4", "test/dog/d.mp4"],
        ("test", 2),
    ),
    "table": Miniature(
        "audioset_mini",
        {"mine.csv": "file;label;subset\nx/a.mp4;dog|cat;train\nx/b.mp4;cat;train\nx/c.mp4;dog;test\n"},
        ["x/a.mp4", "x/b.mp4", "x/c.mp4"],
        ("test", 1),
    ),
}
TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--model.fusion_layer", "1", "--data.num_workers", "0"]
TINY += ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TINY += ["--data.frame_size", "32", "--data.short_side", "36", "--data.num_frames", "2", "--data.batch_size", "2"]
CLIPS = [Recipe(seconds=1.6), Recipe(".flv", 1.6), Recipe(".wav", 1.6, None, "pcm_s16le", layout="mono")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """A real encoded clip of each suffix."""
    folder = tmp_path_factory.mktemp("clips")
    return {recipe.suffix: write_clip(folder / f"clip{recipe.suffix}", recipe) for recipe in CLIPS}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lay_out(clips) -> Callable[..., None]:
    """Write texts, and media into the folder `media`."""

    def write(texts: dict[str, str], media: Sequence[str]) -> None:
        for name, text in texts.items():
            Path(name).write_bytes(text.encode())
        Path("media").mkdir()
        for name in media:
            (Path("media") / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clips[Path(name).suffix.lower()], Path("media") / name)

    return write


def test_every_data_set_has_a_miniature() -> None:
    missing = sorted(DATASETS.keys() - SETS.keys())
    assert not missing, f"add {', '.join(missing)} to SETS in {__file__}"
    unlisted = {kind.__name__ for kind in defined(DataSet) - {type(dataset) for dataset in DATASETS.values()}}
    assert unlisted <= {"KineticsBase"}, f"add {unlisted} to DATASETS in datasets/__init__.py"


@pytest.mark.parametrize("dataset", SETS)
def test_from_official_files_to_training(dataset, lay_out, capsys) -> None:
    """With the data set's recipe, of which only sizes are changed."""
    miniature = SETS[dataset]
    lay_out(miniature.annotations | miniature.labels, miniature.media)
    main(["prepare", dataset, *miniature.words, "--media", "media", "--out", "m.parquet", "--min_part", "0.1"])
    manifest, report = read_manifest("m.parquet"), Path("m.parquet.report.txt").read_text()
    assert manifest.left_out == {} and "refused" not in report and "leak" not in report, report

    main(["stats", "m.parquet", "--num_workers", "1"])  # a recipe's spectrogram has the scale of its set
    configs = [EXPERIMENTS / "bottleneck_symmetric_b4_lf8.yaml", EXPERIMENTS / "recipes" / f"{miniature.recipe}.yaml"]
    stacked = [word for path in configs for word in ("--config", str(path))]
    main(["fit", *stacked, "--data.manifest", "m.parquet", *TINY])
    summary = json.loads(next(Path("runs").glob("*/*/summary.json")).read_text())
    split, count = miniature.scored
    assert len(manifest.split(split)) == count
    assert summary["fit"]["steps"] == 2 and summary["test"]["clips"] == count and summary["test"]["loss"] > 0


VGG = SETS["vggsound"].annotations["vggsound.csv"]


class TestReport:
    def prepare(self, *more: str) -> None:
        words = ["--annotations", "vggsound.csv", "--media", "media", "--out", "m.csv", "--min_part", "0.1"]
        main(["prepare", "vggsound", *words, *more])

    def refused(self, capsys: pytest.CaptureFixture, *more: str) -> str:
        """The program's last message."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            self.prepare(*more)
        assert stop.value.code == 2
        return capsys.readouterr().err

    @pytest.fixture
    def holes(self, lay_out) -> None:
        """A missing file, a broken one, an unreadable row, and a source in two splits."""
        media = [f"video/{IDS[at]}_{start:06d}.mp4" for at, start in ((0, 0), (1, 1), (3, 3), (3, 7))]
        lay_out({"vggsound.csv": VGG + f"{IDS[3]},7,a b,train\nbad,row\n"}, media)
        Path(f"media/video/{IDS[1]}_000001.mp4").write_bytes(b"junk" * 99)

    def test_every_loss_is_reported(self, holes, capsys) -> None:
        self.prepare()
        manifest = read_manifest(Path("m.csv"))
        assert manifest.left_out == {"missing": 1, "unreadable": 1}
        report = Path("m.csv.report.txt").read_text()
        assert "vggsound.csv:6: refused: 2 columns instead of 4" in report
        assert f"vggsound.csv:3: {IDS[2]}_000002: missing" in report
        assert f"vggsound.csv:2: {IDS[1]}_000001: unreadable" in report
        leak = f"source {IDS[3]} has clips in two splits: test (vggsound.csv:4), train (vggsound.csv:5)"
        assert f"leak: {leak}\n" in report
        assert "class a b: train 2 of 3, test 0 of 0\nclass c, d: train 0 of 1, test 1 of 1\n" in report
        out = " ".join(capsys.readouterr().out.split())
        assert "rows refused: 1" in out and "sources in two splits: 1" in out and leak in out
        assert "classes that lost every clip in train: 1: c, d" in out
        assert "classes without an official clip in test: 1: a b" in out

    def test_limits_end_the_program(self, holes, capsys) -> None:
        for words, message in (
            (["--refuse_leaks", "true"], f"1 leaks, e.g. source {IDS[3]} has clips in two splits"),
            (["--max_lost", "0.1"], "2 of 5 clips are lost, more than max_lost 0.1"),
            (["--needs", "[smell]"], "needs is ['smell']: give video, audio or both"),
            (["--min_part", "0"], "min_part is 0.0: give a part above 0"),
            (["--media", "nowhere"], "nowhere"),
        ):
            assert message in self.refused(capsys, *words)

    def test_a_clip_in_two_splits_stays_where_it_evaluates(self, lay_out, capsys) -> None:
        other = f"{IDS[3]},3,a b,train\n"
        lay_out({"vggsound.csv": f"{IDS[0]},0,a b,train\n" + VGG.replace("train", "val") + other}, [])
        assert "clip '--aaSYNTH00_000000' is in two splits" in self.refused(capsys, "--refuse_leaks", "true")
        self.prepare()
        rows = {row.split(",")[0]: row for row in Path("m.csv").read_text().splitlines()}
        assert ",val,missing,vggsound.csv:2" in rows[f"{IDS[0]}_000000"] and f"{IDS[3]}_000003" not in rows
        report = Path("m.csv.report.txt").read_text()
        place = "kept in val (vggsound.csv:2), dropped from train (vggsound.csv:1)"
        assert f"leak: clip '{IDS[0]}_000000' is in two splits: {place}\n" in report
        assert "vggsound.csv:6: refused: " in report, "other labels: nobody knows which are right"
        assert "clips in two splits, dropped from one: 1" in capsys.readouterr().out

    def test_names_that_differ_by_case_only(self, lay_out, capsys) -> None:
        lay_out({"vggsound.csv": VGG + f"{IDS[3].lower()},3,a b,train\n"}, [])
        self.prepare()
        note = f"note: sources differ by case only: {IDS[3]}, {IDS[3].lower()}"
        assert note in capsys.readouterr().out and note in Path("m.csv.report.txt").read_text()

    def test_a_second_run_probes_nothing_anew(self, holes) -> None:
        self.prepare()
        first = Path("m.csv").read_text()
        cached = Path("m.csv.probed.jsonl").read_text()
        self.prepare()
        assert Path("m.csv").read_text() == first and Path("m.csv.probed.jsonl").read_text() == cached

    def test_clips_too_short_are_left_out(self, holes) -> None:
        self.prepare("--min_part", "0.9")  # 1.6 s of a segment of 10
        assert read_manifest(Path("m.csv")).left_out["too_short"] == 3

    @pytest.mark.parametrize(
        ("out", "prefix"), [("m.csv", "media/video/"), ("media/m.csv", "video/"), ("elsewhere/m.csv", None)]
    )
    def test_media_are_named_from_where_the_manifest_lies(self, lay_out, out, prefix) -> None:
        lay_out({"vggsound.csv": VGG}, SETS["vggsound"].media)
        self.prepare("--out", out)
        assert read_manifest(out).left_out == {}
        video = Path(out).read_text().splitlines()[1].split(",")[4]
        assert video == (prefix or f"{Path('media').resolve()}/video/") + f"{IDS[0]}_000000.mp4"
