"""Audio-visual classification with transformers: where and how the modalities exchange information."""

from importlib import import_module
from typing import Any

_CLASSES = {
    "AST": "model.pretrained.ast",
    "Bottleneck": "model.fusion",
    "CentralCrop": "data.augment",
    "Checkpoint": "training.checkpoint",
    "ClassBalanced": "data.samplers",
    "ClipSampler": "data.samplers",
    "ClsHead": "model.heads",
    "ColourJitter": "data.augment",
    "ColumnModality": "data.modalities",
    "CrossAttention": "model.fusion",
    "GoogleViT": "model.pretrained.vit",
    "InOrder": "data.samplers",
    "JitteredCrop": "data.augment",
    "JointSelfAttention": "model.fusion",
    "KaldiFbank": "data.spectrogram",
    "LogMel": "data.spectrogram",
    "MaxPoolHead": "model.heads",
    "MeanPoolHead": "model.heads",
    "MelTransform": "data.spectrogram",
    "Mixup": "data.mixup",
    "Modality": "data.modalities",
    "ModalityMixup": "data.mixup",
    "Multiclass": "training.tasks",
    "Multihead": "training.tasks",
    "Multilabel": "training.tasks",
    "PerModality": "model.pretrained.init",
    "RandomCrop": "data.augment",
    "RandomResizedCrop": "data.augment",
    "Rgb": "data.modalities",
    "RgbAugment": "data.augment",
    "Scenic": "model.pretrained.scenic",
    "Shuffled": "data.samplers",
    "SpecAugment": "data.augment",
    "Spectrogram": "data.modalities",
    "SumPoolHead": "model.heads",
    "TimmViT": "model.pretrained.vit",
    "TrainOnlyBottleneck": "model.fusion",
    "WandbRun": "training.wandb_logger",
    "sgd": "training.module",
}
"""What configurations name, and its module."""

_HOME = _CLASSES | {
    "AudioStream": "data.streams",
    "AudioVisualClassifier": "training.module",
    "AudioVisualData": "data.datamodule",
    "Batch": "data.records",
    "Clip": "data.records",
    "ClipError": "data.media.decode",
    "DataSpec": "data.records",
    "EncoderSize": "model.size",
    "Fusion": "model.fusion",
    "Geometry": "model.fusion",
    "Head": "model.heads",
    "MBT": "model.mbt",
    "Stream": "data.streams",
    "UserError": "errors",
    "VideoStream": "data.streams",
    "Window": "data.streams",
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
