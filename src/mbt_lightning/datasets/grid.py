"""GRID: 34 talkers, each speaking a thousand sentences of six words; a file's name holds its sentence.

`bbaf2n` is "bin blue at f two now": command, colour, preposition, letter (no w), digit (`z` is zero), adverb. Media are
found by these names in any folders, e.g. `s1/bbaf2n.mpg` or `s1/video/mpg_6000/bbaf2n.mpg`; the talker is the folder
`s1` to `s34` (s21 has no video). The alignments, `s1/bbaf2n.align` with rows `START END word` in 25,000 units a second,
give the times of words and check the names (Cooke et al., JASA 120, 2006; zenodo.org/record/3625687, CC BY 4.0).

Variants: `words`, all six words of a sentence, in six groups (for `Multilabel`, or `Multihead` with a head a group);
`digit` and `letter`, that word alone within its own times. There is no official split. Of the sentences of a talker
with the same letter and digit, four in the whole corpus, the one with the least SHA-256 hash is held out, for test or
val by the hash of the pair. `...-by-talker` tests on talkers that are not trained on: s1, s2, s20 and s22, as LipNet
does (arXiv 1611.01599), and validates on s3, s4, s5 and s7.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.class_folders import is_leftover, walk
from mbt_lightning.datasets.clips import OfficialClip, Parsed, Refused
from mbt_lightning.datasets.match import AUDIO_SUFFIXES
from mbt_lightning.datasets.rows import BadRow, numbered_lines, show, to_integer
from mbt_lightning.errors import UserError

WORDS: dict[str, dict[str, str]] = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "colour": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": {"z": "zero", "1": "one", "2": "two", "3": "three", "4": "four"}
    | {"5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine"},
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}
"""The words of each group by their letter in a file's name, in the order in which they are spoken."""

NAME = re.compile("".join(f"[{''.join(words)}]" for words in WORDS.values()))
TALKER = re.compile(r"s([1-9]|[12][0-9]|3[0-4])")
TEST_TALKERS, VAL_TALKERS = ("s1", "s2", "s20", "s22"), ("s3", "s4", "s5", "s7")
UNITS_A_SECOND = 25_000
SILENCES = ("sil", "sp")


class Sentence(NamedTuple):
    """A sentence of a talker; `talker` is empty if no folder names one."""

    talker: str
    name: str

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(words[letter] for letter, words in zip(self.name, WORDS.values(), strict=True))

    @property
    def pair(self) -> tuple[str, str]:
        """The talker, and the letters of letter and digit."""
        return self.talker, self.name[3:5]


Times = list[tuple[float, float, str]]
"""Start and end in seconds of each spoken word."""


class Grid(DataSet):
    """The corpus as it is distributed: media, and alignments as files or folders of files."""

    name = "grid"
    help = "GRID: --annotations alignments (their folder); --variant words, digit or letter, each also -by-talker"
    variants = tuple(f"{task}{split}" for split in ("", "-by-talker") for task in ("words", "digit", "letter"))

    def check_files(self, annotations: Sequence[Path]) -> None:
        for path in annotations:
            if not path.exists():
                raise UserError(f"{path}: no such file or folder; give GRID's .align files or their folder")
            if not path.is_dir():
                self.check_kind(path)

    def read(self, sources: Sources) -> Parsed:
        task, _, by_talker = (sources.variant or "words").partition("-")
        if sources.split is not None:
            raise UserError(
                "grid: splits follow from the sentences; leave out --split, or choose --variant words-by-talker"
            )
        if task != "words" and not sources.annotations:
            raise UserError(f"grid: the times of a {task} are in the alignments; add --annotations with their folder")
        collector = ClipCollector()
        files = find_media(sources.media, collector)
        times = read_alignments(sources.annotations, collector)
        splits = by_talkers(files) if by_talker else by_sentences(files)
        unchecked = 0
        for sentence, path in files.items():
            spoken = times.get(sentence) or times.get(Sentence("", sentence.name))
            clip_id = "/".join(filter(None, sentence))
            if spoken and (said := tuple(word for *_, word in spoken)) != sentence.words:
                collector.refused.append(Refused(path, f"its alignment is {show(' '.join(said))}, its name is not"))
            elif task == "words":
                unchecked += not spoken
                collector.add(OfficialClip(clip_id, path, None, None, sentence.words, splits[sentence], path))
            elif spoken:
                start, end, word = spoken[list(WORDS).index(task)]
                collector.add(OfficialClip(clip_id, path, start, end, (word,), splits[sentence], path))
            else:
                collector.refused.append(Refused(path, "it has no alignment, so the times of its words are unknown"))
        if unchecked and times:
            collector.notes.append(f"{unchecked} clips have no alignment to check their names by")
        groups = WORDS if task == "words" else {task: WORDS[task]}
        names = [(word, group) for group, words in groups.items() for word in words.values()]
        return collector.done([word for word, _ in names], [group for _, group in names] if task == "words" else ())


def find_media(root: Path | None, collector: ClipCollector) -> dict[Sentence, str]:
    """The path without suffix of each sentence's file, with frames if there is one."""
    if root is None or not root.is_dir():
        raise UserError(f"grid: {root or 'no media folder'}: no such folder; add --media DIR")
    found: dict[Sentence, list[PurePath]] = defaultdict(list)
    others = []
    for path in walk(root):
        if not is_leftover(path.name) and path.suffix.lower() in MEDIA_SUFFIXES:
            if NAME.fullmatch(path.stem):
                found[Sentence(talker_of(root, path), path.stem)].append(path)
            else:
                others.append(str(path))
    if not found:
        raise UserError(f"{root}: contains no media file that is named like a sentence of GRID, e.g. bbaf2n.mpg")
    if others:
        collector.notes.append(f"{len(others)} media files are not named like a sentence, e.g. {show(others[0])}")
    several = [paths for paths in found.values() if sum(is_video(path) for path in paths) > 1]
    if several:
        collector.notes.append(f"{len(several)} sentences have several videos, e.g. {', '.join(map(str, several[0]))}")
    return {
        s: min(paths, key=lambda p: (not is_video(p), str(p))).with_suffix("").as_posix() for s, paths in found.items()
    }


def is_video(path: PurePath) -> bool:
    return path.suffix.lower() not in AUDIO_SUFFIXES


def talker_of(root: Path, path: PurePath) -> str:
    """The talker by the nearest folder, the given one included."""
    names = [*root.absolute().parts[-2:], *path.parts[:-1]]
    return next((name for name in reversed(names) if TALKER.fullmatch(name)), "")


def read_alignments(annotations: Sequence[Path], collector: ClipCollector) -> dict[Sentence, Times]:
    """The times of the words of each sentence; files that cannot be read are refused."""
    found: dict[Sentence, Times] = {}
    for root, path in alignment_files(annotations):
        where = str(root / path)
        try:
            found[Sentence(talker_of(root, path), path.stem)] = read_alignment(Path(where))
        except (BadRow, UserError) as error:
            collector.refused.append(Refused(where, str(error).removeprefix(f"{where}: ")))
    if annotations and not found:
        raise UserError(f"{annotations[0]}: contains no alignment that can be read; GRID's are named like bbaf2n.align")
    return found


def alignment_files(annotations: Sequence[Path]) -> Iterator[tuple[Path, PurePath]]:
    for root in annotations:
        if root.is_dir():
            yield from ((root, path) for path in walk(root) if path.suffix.lower() == ".align")
        else:
            yield root.parent, PurePath(root.name)


def read_alignment(path: Path) -> Times:
    """The six words of an alignment, without the silences between them."""
    spoken: Times = []
    before = 0
    for where, line in numbered_lines(path):
        cells = line.split()
        if len(cells) != 3:
            raise BadRow(f"{where}: {show(line)} is not START END word")
        start, end = to_integer(cells[0], "the start"), to_integer(cells[1], "the end")
        if not before <= start < end:
            raise BadRow(f"{where}: {show(cells[2])} from {start} to {end} does not follow {before}")
        before = end
        if cells[2] not in SILENCES:
            spoken.append((start / UNITS_A_SECOND, end / UNITS_A_SECOND, cells[2]))
    if len(spoken) != len(WORDS):
        raise BadRow(f"{len(spoken)} words instead of {len(WORDS)}")
    return spoken


def by_talkers(files: Mapping[Sentence, str]) -> dict[Sentence, str]:
    """The split of each sentence by its talker."""
    if any(not sentence.talker for sentence in files):
        raise UserError("grid: a split by talker needs folders that name the talkers, s1 to s34")
    held_out = dict.fromkeys(TEST_TALKERS, "test") | dict.fromkeys(VAL_TALKERS, "val")
    return {sentence: held_out.get(sentence.talker, "train") for sentence in files}


def by_sentences(files: Mapping[Sentence, str]) -> dict[Sentence, str]:
    """The split of each sentence: one of each letter and digit of a talker is held out."""
    alike: dict[tuple[str, str], list[Sentence]] = defaultdict(list)
    for sentence in files:
        alike[sentence.pair].append(sentence)
    held_out = {
        min(sentences, key=lambda s: digest(s.name)): "test" if digest(*pair) % 2 else "val"
        for pair, sentences in alike.items()
        if len(sentences) > 1
    }
    return {sentence: held_out.get(sentence, "train") for sentence in files}


def digest(*words: str) -> int:
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest())
