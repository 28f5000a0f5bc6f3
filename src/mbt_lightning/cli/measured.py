"""Mean and standard deviation of log-mels, where a configuration leaves them to `mbt stats`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse import Namespace

from mbt_lightning.data.datamodule import manifest_file
from mbt_lightning.data.measure import Measured, kind_of, read_measured, scale_given, settings_of
from mbt_lightning.data.spectrogram import MelTransform


class Scale(NamedTuple):
    """Where a mean and standard deviation come from.

    Args:
        source: in words.
        measured: the measurement, if they come from one.
    """

    source: str = "as configured"
    measured: Measured | None = None


def fill_in_measured(settings: Namespace, trained: Mapping[str, Any], trained_source: str) -> dict[str, Scale]:
    """Replace `null` as a log-mel's mean or std by a checkpoint's, or else by what `mbt stats` has measured.

    A run's configuration and its checkpoints then hold numbers, and need no statistics any more.

    Args:
        settings: of the program, which are changed.
        trained: `data.inputs` of the checkpoint that the run starts from; empty without one.
        trained_source: the checkpoint, in words.

    Returns:
        Where they come from, for each modality that had a `null`.

    Raises:
        UserError: nothing was measured.
    """
    found = {}
    for m in settings.model.modalities:
        chosen = transform_of(settings.data.inputs.get(m))  # an unknown one is refused by the data
        given = vars(chosen.get("init_args", Namespace())) if chosen else {}
        missing = [name for name in ("mean", "std") if name in given and given[name] is None]
        if not missing:
            continue
        kind = kind_of(chosen.class_path)
        if values := scale_given(transform_of(trained.get(m)), settings_of(kind, given)):
            found[m] = Scale(trained_source)
        else:
            measured = read_measured(manifest_file(settings.data.manifest), kind, given)
            values, found[m] = measured._asdict(), Scale(f"{' and '.join(missing)} {measured}", measured)
        for name in missing:
            given[name] = values[name]
    return found


def transform_of(modality: Any) -> Any:
    """The log-mel in the settings of a modality; None if it has none."""
    chosen = (modality or {}).get("init_args", {}).get("transform")
    return chosen if chosen and issubclass(kind_of(chosen["class_path"]), MelTransform) else None
