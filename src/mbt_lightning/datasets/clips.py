"""The result of every parser: the clips that the official files list, and the problems found in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class OfficialClip(NamedTuple):
    """One labelled clip of an official annotation file.

    Args:
        clip_id: unique in the data set.
        source_id: the video that it is cut from, as media files are named; clips may share one.
        start_seconds: start of the segment in the source; None: the whole source.
        end_seconds: its end; None: the source's end.
        labels: class names.
        split: train, val, test, or a name of the data set.
        annotation: file:line of its row.
    """

    clip_id: str
    source_id: str
    start_seconds: float | None
    end_seconds: float | None
    labels: tuple[str, ...]
    split: str
    annotation: str


class Refused(NamedTuple):
    """A row that is not used: its file:line, and the reason with the wrong value."""

    where: str
    reason: str


@dataclass
class Parsed:
    """The content of official files.

    Args:
        clips: in the order of the files, without repeats.
        classes: class names in index order.
        groups: one group per class, or empty.
        refused: rows that could not be read.
        duplicates: exact repeats that were dropped.
        leaks: clips listed in two splits, with both places; `clips` holds only the one that is evaluated.
        notes: anything unusual that is no reason to refuse, e.g. an unofficial number of classes.
        variant: the variant of the data set; None: it has none.
    """

    clips: list[OfficialClip] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    refused: list[Refused] = field(default_factory=list)
    duplicates: int = 0
    leaks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variant: str | None = None
