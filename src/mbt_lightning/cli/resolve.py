"""Points of a sweep resolved by the program's own parser, and what their networks cost; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.cost import AUDIOSET_CLASSES, itself
from mbt_lightning.cli.measured import fill_in_measured
from mbt_lightning.cli.parser import Parser, as_plain, build_network, build_parser, parse
from mbt_lightning.data.demo import CLASSES, DemoSize
from mbt_lightning.data.manifest.manifest import read_manifest
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.mbt import MBT
from mbt_lightning.sweep.resolved import Resolved


def resolve(words: Sequence[str], points: Sequence[Mapping[str, Any]]) -> list[Resolved]:
    """The experiment of each point of a sweep, as a run of it would record it.

    Args:
        words: the words after `mbt` that all points share, the first of them `fit`.
        points: values by dotted name, which win over files but not over options.

    Raises:
        UserError: a setting that the program refuses, with the values of its point.
    """
    costs: dict[str, tuple[float, float | None, int]] = {}
    found = []
    for point in points:
        with named_in_errors(point):
            found.append(resolve_one([*words, "--config", json.dumps(point)], costs))
    return found


def resolve_one(words: Sequence[str], costs: dict[str, tuple[float, float | None, int]]) -> Resolved:
    """One experiment.

    Args:
        words: the words after `mbt`, the first of them `fit`.
        costs: what networks cost that were counted before, which is completed.
    """
    parser = fit_parser()
    settings = parse(parser, expand(list(words))[1:])
    settings.base = None  # the files have been read
    data = settings.data
    num_classes, train_clips = facts_of(data.manifest, data.media_root, data.classes)
    if data.manifest == "demo" or Path(data.manifest).is_file():
        fill_in_measured(settings, settings.ckpt_path)
    inputs, network = build_network(parser, settings, lambda _: num_classes)
    config = as_plain(parser, settings)
    own = {name: value for name, value in config["model"].items() if name in signature(MBT).parameters}
    key = json.dumps([inputs, num_classes, own])
    if key not in costs:
        row = itself(network, inputs)
        costs[key] = row.as_run / 1e9, None if row.as_coded is None else row.as_coded / 1e9, row.parameters
    return Resolved(config, *costs[key], train_clips)


@cache
def fit_parser() -> Parser:
    """The parser of `mbt fit`, which takes a second to build."""
    return build_parser("fit")


@cache
def facts_of(manifest: str, media_root: str | None, classes: str | None) -> tuple[int, int | None]:
    """Number of classes, and of training clips: AudioSet's and None where there is no manifest yet."""
    if manifest == "demo":  # known before the clips are made
        return len(CLASSES), DemoSize().train
    if not Path(manifest).is_file():
        return AUDIOSET_CLASSES, None
    content = read_manifest(manifest, media_root, classes)
    return len(content.classes), len(content.splits.get("train", ()))


@contextmanager
def named_in_errors(point: Mapping[str, Any]) -> Iterator[None]:
    """Let every refusal be a UserError that names the point; print nothing."""
    printed = StringIO()
    try:
        with redirect_stderr(printed), redirect_stdout(StringIO()):
            yield
    except SystemExit:
        message = one_line(printed.getvalue().removeprefix("mbt: error: "))
        raise UserError(f"the point {json.dumps(point)} is refused: {message}") from None
    except (ValueError, TypeError) as error:  # a UserError is one
        raise UserError(f"the point {json.dumps(point)} is refused: {one_line(error)}") from None
