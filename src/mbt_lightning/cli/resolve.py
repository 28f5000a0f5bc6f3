"""Points of a sweep resolved by the program's own parser, and what their networks cost; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.cost import AUDIOSET_CLASSES
from mbt_lightning.cli.measured import fill_in_measured
from mbt_lightning.cli.parser import Parser, as_plain, build_network, build_parser, parse
from mbt_lightning.config.settings import SEED
from mbt_lightning.data.demo import CLASSES, DemoSize
from mbt_lightning.data.manifest.manifest import read_manifest
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.authors_flops import gflops_as_coded
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.sweep.resolved import Resolved


def resolve(words: Sequence[str], points: Sequence[Mapping[str, Any]]) -> list[Resolved]:
    """The experiment of each point of a sweep, as a run of it would record it.

    Args:
        words: the words after `mbt` that all points share, the first of them `fit`.
        points: values by dotted name, which win over files but not over options.

    Raises:
        UserError: a setting that the program refuses, with the values of its point.
    """
    found = []
    known: dict[str, Resolved] = {}  # by a point's values without the seed, which changes nothing else
    for point in points:
        seed = point.get(SEED)
        key = json.dumps({name: value for name, value in point.items() if name != SEED or type(seed) is not int})
        if key not in known:
            with named_in_errors(point):
                known[key] = resolve_one([*words, "--config", json.dumps(point)])
        one = known[key]
        found.append(replace(one, config=one.config | ({SEED: seed} if type(seed) is int else {})))
    return found


def resolve_one(words: Sequence[str]) -> Resolved:
    """The experiment of a command line, the first word of which is `fit`."""
    parser = fit_parser()
    settings = parse(parser, expand(words[0], words[1:]))
    settings.base = None  # the files have been read
    data = settings.data
    num_classes, train_clips = facts_of(data.manifest, data.media_root, data.classes)
    if data.manifest == "demo" or Path(data.manifest).is_file():
        fill_in_measured(settings, {}, "")
    inputs, network = build_network(parser, settings, lambda _: num_classes)
    costs = gflops_per_clip(network, inputs), gflops_as_coded(network, inputs), count_parameters(network)
    return Resolved(as_plain(parser, settings), *costs, train_clips)


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
