"""What every data set's parser gives: the clips that the official files name, and what was wrong with the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class OfficialClip(NamedTuple):
    """One labelled clip of an official annotation file.

    Args:
        clip_id: its name, unique in the data set.
        source_id: the video that it is cut from, as media files are named after it; many clips may share one.
        start_seconds: begin of the segment on the source's own time line; None: the whole source.
        end_seconds: its end; None: the source's end.
        labels: class names.
        split: train, val, test, or the data set's own.
        annotation: file:line that it stands at.
    """

    clip_id: str
    source_id: str
    start_seconds: float | None
    end_seconds: float | None
    labels: tuple[str, ...]
    split: str
    annotation: str


class Refused(NamedTuple):
    """A row that is not used.

    Args:
        where: file:line.
        reason: why, with the value that is wrong.
    """

    where: str
    reason: str


@dataclass
class Parsed:
    """What official files say.

    Args:
        clips: in the files' order, without repeats.
        classes: class names in index order.
        groups: one group a class, or empty.
        refused: rows that could not be read.
        duplicates: exact repeats that were dropped.
        leaks: clips that stand in two splits, with both places; among `clips` is the one that evaluates.
        notes: what is odd but no reason to refuse, e.g. a number of classes unlike the official one.
        variant: which of the data set's variants it is; None: it has none.
    """

    clips: list[OfficialClip] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    refused: list[Refused] = field(default_factory=list)
    duplicates: int = 0
    leaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variant: str | None = None
