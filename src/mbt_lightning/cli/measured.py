"""The spectrogram's mean and standard deviation, where a configuration leaves them to `mbt stats`."""

from __future__ import annotations

from typing import NamedTuple

from jsonargparse import Namespace

from mbt_lightning.data.datamodule import manifest_file
from mbt_lightning.data.measure import Measured, kind_of, read_measured, scale_given, settings_of
from mbt_lightning.training.checkpoint import read_about


class Scale(NamedTuple):
    """Where a mean and standard deviation come from.

    Args:
        source: in words.
        measured: the measurement, if they come from one.
    """

    source: str = "as configured"
    measured: Measured | None = None


def fill_in_measured(settings: Namespace, checkpoint: str | None) -> Scale:
    """Replace `null` as the spectrogram's mean or std by the checkpoint's, or else by what `mbt stats` has measured.

    A run's configuration and its checkpoints then hold numbers, and need no statistics any more.

    Args:
        settings: of the program, which are changed.
        checkpoint: the one that the run starts from; None: none.

    Raises:
        UserError: nothing was measured.
    """
    data, chosen = settings.data, settings.data.spectrogram
    given = vars(chosen.get("init_args", {}))
    missing = [name for name in ("mean", "std") if name in given and given[name] is None]
    if "spectrogram" not in settings.model.modalities or not missing:
        return Scale()
    trained = read_about(checkpoint)["config"]["data"] if checkpoint else {}
    kind = kind_of(chosen.class_path)
    if values := scale_given(trained.get("spectrogram"), settings_of(kind, given)):
        scale = Scale(f"as in {checkpoint}")
    else:
        measured = read_measured(manifest_file(data.manifest), kind, given)
        values, scale = measured._asdict(), Scale(f"{' and '.join(missing)} {measured}", measured)
    for name in missing:
        given[name] = values[name]
    return scale
