"""Audio-visual classification with transformers: where and how the modalities exchange information."""

from importlib import import_module
from typing import Any

_HOME = {
    "AudioVisualClassifier": "training.module",
    "AudioVisualData": "data.datamodule",
    "Batch": "data.records",
    "Bottleneck": "model.fusion",
    "Clip": "data.records",
    "ClipError": "data.media.decode",
    "ClsHead": "model.heads",
    "CrossAttention": "model.fusion",
    "DataSpec": "data.records",
    "EncoderSize": "model.size",
    "Fusion": "model.fusion",
    "Geometry": "model.fusion",
    "Head": "model.heads",
    "JointSelfAttention": "model.fusion",
    "MBT": "model.mbt",
    "MaxPoolHead": "model.heads",
    "MeanPoolHead": "model.heads",
    "SumPoolHead": "model.heads",
    "TrainOnlyBottleneck": "model.fusion",
    "UserError": "errors",
    "attention_scores": "model.attention",
    "fuse": "model.mbt",
    "load_checkpoint": "training.checkpoint",
    "read_clip": "data.media.decode",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for: `import mbt_lightning` alone costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
