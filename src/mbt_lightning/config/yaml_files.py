"""Files of settings, read strictly and without torch: a key that stands twice is refused, `base:` is followed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.errors import UserError, did_you_mean, one_line


class StrictLoader(yaml.SafeLoader):
    """Loads YAML, and refuses a key that stands twice: plain YAML drops the first without a word."""


def no_duplicates(loader: StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    """Build a mapping whose keys are all different."""
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            mark = node.value[i][0].start_mark
            raise UserError(f"{mark.name}:{mark.line + 1}: key {key!r} stands there twice; the first would be lost")
    return loader.construct_mapping(node, deep=deep)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, no_duplicates)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file of keys and values, strictly.

    Args:
        path: the file, which is there.
        what: what it is, for the error: `an experiment file`.

    Raises:
        UserError: no YAML, a key twice, or not keys and values.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file: {one_line(error)}") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: {what} holds keys and values, not {type(content).__name__}")
    return content or {}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read an experiment file, strictly."""
    content = read_mapping(path, "an experiment file")
    if "config" in content:
        raise UserError(f"{path}: key 'config' is not for files; write `base: FILE` to build on another file")
    return content


def with_bases(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """An experiment file behind the files that it names as its `base`, the first of all first."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file{nearest_file(path)}")
    if path in seen:
        raise UserError(f"{path}: is its own base")
    content = read_yaml(path)
    base = content.get("base")
    return ([] if base is None else with_bases(path.parent / base, (*seen, path))) + [path]


def nearest_file(path: Path) -> str:
    """A hint at the YAML file of a folder whose name is most like one that is not there, or nothing."""
    return did_you_mean(str(path), [str(p) for p in path.parent.glob("*.yaml")])


def split_equals(words: Sequence[str]) -> list[str]:
    """`--config=FILE` and `--ckpt_path=FILE` as two words."""
    return [
        part for word in words for part in (word.split("=", 1) if re.match(r"--(config|ckpt_path)=", word) else [word])
    ]


def is_text(config: str) -> bool:
    """Whether what stands behind --config is the configuration itself as JSON, as W&B may hand it over."""
    return config.lstrip().startswith("{")


def files_named(words: Sequence[str]) -> list[Path]:
    """All files that the --config options of a command line depend on, in the order in which they are read.

    Args:
        words: the command line behind `mbt`.

    Raises:
        UserError: a file that is missing or not what it should be.
    """
    words = split_equals(words)
    named = [after for word, after in itertools.pairwise(words) if word in ("-c", "--config")]
    return [path for name in named if not is_text(name) for path in with_bases(Path(name))]
