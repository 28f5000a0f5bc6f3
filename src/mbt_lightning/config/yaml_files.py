"""Files of settings, read strictly and without torch: a repeated key is refused, `base:` is followed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.errors import UserError, did_you_mean, one_line

MOST_VALUES = 1_000_000
"""More values than any configuration has."""


class StrictLoader(yaml.SafeLoader):
    """Loads YAML as the parser does (1e-3 is a number, a date is text), but refuses a repeated key."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in forms if not tag.endswith((":float", ":timestamp"))]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def no_duplicates(loader: StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    """Build a mapping whose keys are all different."""
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            mark = node.value[i][0].start_mark
            raise UserError(f"{mark.name}:{mark.line + 1}: key {key!r} is there twice; the first would be lost")
    return loader.construct_mapping(node, deep=deep)


FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?$
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)$
    |\.[0-9_]+(?:[eE][-+][0-9]+)?$
    |[-+]?\.(?:inf|Inf|INF)$
    |\.(?:nan|NaN|NAN)$""",
    re.VERBOSE,
)
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, no_duplicates)


class StrictDumper(yaml.SafeDumper):
    """Writes text that `StrictLoader` and the parser read as it was: the text `1e3` is no number."""

    yaml_implicit_resolvers = StrictLoader.yaml_implicit_resolvers


def parsed(text: str, source: str) -> Any:
    """The content of a YAML text, read strictly.

    Args:
        text: YAML, or JSON, which is YAML too.
        source: where it is from, for errors.

    Raises:
        UserError: it is no YAML, or a key is there twice.
    """
    loader = StrictLoader(text)
    loader.name = source
    try:
        content = loader.get_single_data()
        refuse_bombs(content)
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise UserError(f"{source}: not YAML: {reason}") from None
    finally:
        loader.dispose()
    return content


def refuse_bombs(content: Any) -> None:
    """Refuse a short text that stands for a huge one: anchors that are repeated within each other, or in themselves.

    Raises:
        yaml.YAMLError: written out, it would have more than `MOST_VALUES` values.
    """
    counts: dict[int, float] = {}

    def count(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in counts:
            counts[id(value)] = math.inf  # until it is known: a value inside itself never ends
            counts[id(value)] = 1 + sum(map(count, value.values() if isinstance(value, dict) else value))
        return counts[id(value)]

    if count(content) > MOST_VALUES:
        raise yaml.YAMLError(f"written out, its repeated anchors make more than {MOST_VALUES} values")


def as_text(config: Mapping[str, Any]) -> str:
    """A configuration as YAML."""
    return yaml.dump(config, Dumper=StrictDumper, sort_keys=False, allow_unicode=True)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file of keys and values, strictly.

    Args:
        path: the file, which is there.
        what: its kind, for the error: `an experiment file`.

    Raises:
        UserError: no YAML, a key twice, or not keys and values.
    """
    try:
        content = parsed(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8: {one_line(error)}") from None
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
    """The files that an experiment file builds on by its `base`, the first of all first, and the file itself."""
    if path.is_dir():
        raise UserError(f"--config {path}: is a folder; name one of its files{example_in(path)}")
    if not path.is_file():
        raise UserError(f"--config {path}: no such file{nearest_file(path)}")
    if path in seen:
        raise UserError(f"{path}: is its own base")
    content = read_yaml(path)
    base = content.get("base")
    return ([] if base is None else with_bases(path.parent / base, (*seen, path))) + [path]


def example_in(folder: Path) -> str:
    """The first YAML file of a folder as an example, or nothing."""
    first = next(iter(sorted(folder.glob("*.yaml"))), None)
    return f", e.g. {first}" if first else ""


def nearest_file(path: Path) -> str:
    """A hint at the YAML file with the most similar name in the folder of a missing file, or nothing."""
    return did_you_mean(str(path), [str(p) for p in path.parent.glob("*.yaml")])


def split_equals(words: Sequence[str]) -> list[str]:
    """`--config=FILE` and `--ckpt_path=FILE` as two words."""
    return [
        part for word in words for part in (word.split("=", 1) if re.match(r"--(config|ckpt_path)=", word) else [word])
    ]


def is_text(config: str) -> bool:
    """Whether the value of --config is the configuration itself as JSON, which W&B may hand over."""
    return config.lstrip().startswith("{")


def files_named(words: Sequence[str]) -> list[Path]:
    """All files that the --config options of a command line depend on, in the order in which they are read.

    Args:
        words: the command line after `mbt`.

    Raises:
        UserError: a file that is missing or not what it should be.
    """
    words = split_equals(words)
    named = [after for word, after in itertools.pairwise(words) if word in ("-c", "--config")]
    return [path for name in named if not is_text(name) for path in with_bases(Path(name))]
