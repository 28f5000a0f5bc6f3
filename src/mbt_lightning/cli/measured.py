"""Mean and standard deviation of log-mels, where a configuration leaves them to `mbt stats`."""

from __future__ import annotations

from typing import Any, NamedTuple

from jsonargparse import Namespace

from mbt_lightning.data.datamodule import manifest_file
from mbt_lightning.data.measure import Measured, kind_of, read_measured, scale_given, settings_of
from mbt_lightning.data.spectrogram import MelTransform
from mbt_lightning.training.checkpoint import read_about


class Scale(NamedTuple):
    """Where the mean and standard deviation of a log-mel come from, in words, and the measurement if it was read."""

    source: str = "as configured"
    measured: Measured | None = None


def fill_in_measured(settings: Namespace, checkpoint: str | None) -> dict[str, Scale]:
    """Replace `null` as a log-mel's mean or std by the checkpoint's, or else by what `mbt stats` has measured.

    A run's configuration and its checkpoints then hold numbers, and need no statistics any more.

    Args:
        settings: of the program, which are changed.
        checkpoint: the one that the run starts from; None: none.

    Returns:
        Where the numbers come from, for the modalities that were filled in.

    Raises:
        UserError: nothing was measured.
    """
    scales = {}
    trained = read_about(checkpoint)["config"]["data"]["inputs"] if checkpoint else {}
    for m in settings.model.modalities:
        chosen = transform_of(settings.data.inputs[m])
        given = vars(chosen.get("init_args", Namespace())) if chosen else {}
        missing = [name for name in ("mean", "std") if name in given and given[name] is None]
        if not missing:
            continue
        kind = kind_of(chosen.class_path)
        if values := scale_given(transform_of(trained.get(m)), settings_of(kind, given)):
            scales[m] = Scale(f"as in {checkpoint}")
        else:
            measured = read_measured(manifest_file(settings.data.manifest), kind, given)
            values, scales[m] = measured._asdict(), Scale(f"{' and '.join(missing)} {measured}", measured)
        for name in missing:
            given[name] = values[name]
    return scales


def transform_of(modality: Any) -> Any:
    """The log-mel in the settings of a modality; None if it has none."""
    chosen = (modality or {}).get("init_args", {}).get("transform")
    return chosen if chosen and issubclass(kind_of(chosen["class_path"]), MelTransform) else None
