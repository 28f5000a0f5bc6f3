"""The command line before it is parsed: `base:` in files, a checkpoint's configuration and media become options."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.checkpoint import read_checkpoint
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.run import find_checkpoint

SUBCOMMANDS = ("fit", "validate", "test", "predict")
NEWEST = ("last", "best")
"""Values of --ckpt_path that stand for a checkpoint of the experiment's newest run."""


def expand(arguments: list[str]) -> list[str]:
    """Write out what the parser does not know: `base:` in experiment files, a checkpoint's configuration, media.

    Raises:
        UserError: a file that is missing or not what it should be.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    subcommand, *rest = arguments
    media = []
    while subcommand == "predict" and rest and not rest[0].startswith("-"):
        media.append(rest.pop(0))
    if media:
        rest += ["--data.media", yaml.safe_dump(media, default_flow_style=True, width=10**9).strip()]
    rest = split_equals(rest)

    named: list[str] = []
    expanded: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in ("-c", "--config") and rest:
            name = rest.pop(0)
            if not name.lstrip().startswith("{"):  # W&B may hand over JSON text
                named.append(name)
                for file in with_bases(Path(name)):
                    expanded += ["--config", str(file)]
                continue
            expanded += ["--config", name]
        else:
            expanded.append(word)

    experiment = value_of("--experiment", expanded)
    if not experiment:
        stems = [Path(name).stem for name in named if name.endswith((".yaml", ".yml")) and Path(name).stem != "config"]
        experiment = "+".join(dict.fromkeys(stems))
        expanded += ["--experiment", experiment] if stems else []
    checkpoint = value_of("--ckpt_path", expanded)
    resumes = subcommand == "fit" and checkpoint == "last"
    if checkpoint in NEWEST:
        checkpoint = str(find_checkpoint(Path(value_of("--runs", expanded) or "runs"), experiment, checkpoint))
    if checkpoint and Path(checkpoint).is_file():
        config = read_checkpoint(checkpoint)["mbt_lightning"]["config"]
        kept = ("seed_everything", "trainer") if resumes else ()
        config = {key: config[key] for key in ("experiment", "model", "data", *kept)}
        config["data"].pop("media", None)
        expanded = ["--config", yaml.safe_dump(config, sort_keys=False), *expanded]
    return [subcommand, *expanded]


def split_equals(words: list[str]) -> list[str]:
    """`--config=FILE` and `--ckpt_path=FILE` as two words."""
    return [
        part for word in words for part in (word.split("=", 1) if re.match(r"--(config|ckpt_path)=", word) else [word])
    ]


def value_of(option: str, words: list[str]) -> str | None:
    """The last value given to an option; None if it is not given."""
    found = [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]
    found += [word.split("=", 1)[1] for word in words if word.startswith(option + "=")]
    return found[-1] if found else None


def with_bases(path: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """An experiment file behind the files that it names as its `base`, the first of all first."""
    if not path.is_file():
        close = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / close[0]}?" if close else ""
        raise UserError(f"--config {path}: no such file{hint}")
    if path in seen:
        raise UserError(f"{path}: is its own base")
    content = read_yaml(path)
    base = content.get("base")
    return ([] if base is None else with_bases(path.parent / base, (*seen, path))) + [path]


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read an experiment file, strictly."""
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file: {one_line(error)}") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path}: an experiment file holds keys and values, not {type(content).__name__}")
    if "config" in (content or {}):
        raise UserError(f"{path}: key 'config' is not for files; write `base: FILE` to build on another file")
    return content or {}
