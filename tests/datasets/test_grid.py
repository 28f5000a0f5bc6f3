"""GRID: sentences from names of files, words from alignments, splits that no later file changes much."""

from collections import Counter
from pathlib import Path

import pytest

from mbt_lightning.datasets import DATASETS
from mbt_lightning.datasets.grid import WORDS, Sentence, by_sentences
from mbt_lightning.errors import UserError

GRID = DATASETS["grid"]
ALIGNED = (
    "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 35500 at\n35500 41000 f\n41000 47250 two\n47250 53000 now\n"
)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Empty files with the corpus's names; parsing reads only names."""
    for name in (
        "s1/bbaf2n.mpg",
        "s1/video/mpg_6000/lgwmzs.mpg",
        "s3/bbaf2n.mpg",
        "audio/s1/bbaf2n.wav",
        "s1/notes.mp4",
    ):
        (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "media" / name).touch()
    return tmp_path / "media"


@pytest.fixture
def align(tmp_path: Path) -> Path:
    for name in ("s1/bbaf2n.align", "s1/lgwmzs.align", "s3/bbaf2n.align"):
        (tmp_path / "align" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "align" / name).write_text(ALIGNED)
    return tmp_path / "align"


def test_words(media: Path) -> None:
    parsed = GRID.parse([], media=media)
    found = {clip.clip_id: clip for clip in parsed.clips}
    assert found.keys() == {"s1/bbaf2n", "s1/lgwmzs", "s3/bbaf2n"}
    assert found["s1/bbaf2n"].labels == ("bin", "blue", "at", "f", "two", "now")
    assert found["s1/lgwmzs"].labels == ("lay", "green", "with", "m", "zero", "soon")
    assert found["s1/lgwmzs"].source_id == "s1/video/mpg_6000/lgwmzs" and found["s1/lgwmzs"].start_seconds is None
    assert len(parsed.classes) == 51 and Counter(parsed.groups)["letter"] == 25
    assert len(parsed.notes) == 1 and "notes.mp4" in parsed.notes[0]


@pytest.mark.parametrize(("task", "label", "times"), [("digit", "two", (1.64, 1.89)), ("letter", "f", (1.42, 1.64))])
def test_one_word_within_its_times(task: str, label: str, times: tuple[float, float], media: Path, align: Path) -> None:
    parsed = GRID.parse([align], variant=task, media=media)
    first = next(clip for clip in parsed.clips if clip.clip_id == "s1/bbaf2n")
    assert first.labels == (label,) and (first.start_seconds, first.end_seconds) == pytest.approx(times)
    assert parsed.classes == tuple(WORDS[task].values()) and not parsed.groups
    ((where, reason),) = parsed.refused
    assert where == "s1/video/mpg_6000/lgwmzs" and "bin blue at f two now" in reason


def test_one_sentence_of_each_letter_and_digit_is_held_out() -> None:
    pairs = [(letter, digit) for letter in WORDS["letter"] for digit in WORDS["digit"]]
    names = [f"{command}{c}a{letter}{digit}n" for letter, digit in pairs for command, c in ("bb", "lg", "pr", "sw")]
    splits = by_sentences({Sentence("s1", name): name for name in names})
    held_out = [sentence.pair for sentence, split in splits.items() if split != "train"]
    assert sorted(held_out) == sorted(("s1", letter + digit) for letter, digit in pairs)
    assert 100 <= Counter(splits.values())["test"] <= 150 and Counter(splits.values())["train"] == 750
    fewer = by_sentences({Sentence("s1", name): name for name in names[1:]})
    assert sum(splits[sentence] != split for sentence, split in fewer.items()) <= 1, (
        "a lost file changes its own pair only"
    )


def test_by_talker(media: Path) -> None:
    splits = {clip.clip_id: clip.split for clip in GRID.parse([], variant="words-by-talker", media=media).clips}
    assert splits == {"s1/bbaf2n": "test", "s1/lgwmzs": "test", "s3/bbaf2n": "val"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 23750 sil\n23750 29500\n", "is not START END word"),
        (ALIGNED.replace("29500", "2950"), "does not follow"),
        (ALIGNED.replace("29500", "x"), "not a whole number"),
        (ALIGNED.rpartition("\n47250")[0], "5 words instead of 6"),
    ],
)
def test_a_broken_alignment_is_refused_and_named(text: str, reason: str, media: Path, align: Path) -> None:
    (align / "s3" / "bbaf2n.align").write_text(text)
    parsed = GRID.parse([align], variant="digit", media=media)
    broken = next(r for r in parsed.refused if r.where.endswith("s3/bbaf2n.align"))
    assert reason in broken.reason
    assert [clip.clip_id for clip in parsed.clips] == ["s1/bbaf2n"]
    assert any(r.where == "s3/bbaf2n" and "no alignment" in r.reason for r in parsed.refused)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "digit"}, "add --annotations with their folder"),
        ({"split": "train"}, "leave out --split"),
        ({"variant": "vowel"}, "no variant 'vowel'"),
        ({"media": Path("nowhere")}, "no such folder"),
    ],
)
def test_refusals(options: dict, message: str, media: Path) -> None:
    with pytest.raises(UserError, match=message):
        GRID.parse([], **{"media": media} | options)
    with pytest.raises(UserError, match="no such file or folder; give GRID's"):
        GRID.parse([media / "nowhere"], media=media)


def test_a_split_by_talker_needs_talkers(tmp_path: Path) -> None:
    (tmp_path / "bbaf2n.mpg").touch()
    assert GRID.parse([], media=tmp_path).clips[0].clip_id == "bbaf2n"
    with pytest.raises(UserError, match="folders that name the talkers"):
        GRID.parse([], variant="words-by-talker", media=tmp_path)
