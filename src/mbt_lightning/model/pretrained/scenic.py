"""The authors' Flax MBT (google-research/scenic, `projects/mbt`) in PyTorch, computing the same function.

Their parameter names in a checkpoint: `embedding` and `embedding_spectrogram`, `cls` and `clsspectrogram`,
`bottleneck`, `Transformer/encoderblock_3/MlpBlock_0/Dense_0/kernel` and so on. Parameters of the frames have no suffix,
those of the audio have one; with a shared encoder no block has one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from math import isqrt, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, JointSelfAttention, TrainOnlyBottleneck
from mbt_lightning.model.heads import ClsHead, Head, MaxPoolHead, MeanPoolHead, SumPoolHead
from mbt_lightning.model.mbt import MBT, SHARED
from mbt_lightning.model.pretrained.flax import flatten, read_params, renumber
from mbt_lightning.model.pretrained.init import ModelInit
from mbt_lightning.model.pretrained.linen import block_state, tensor
from mbt_lightning.model.size import EncoderSize

MODALITIES = ("spectrogram", "rgb")
"""Those of the authors' code, in the order of the released checkpoints."""

HEADS: dict[str, type[Head]] = {"token": ClsHead, "gap": MeanPoolHead, "gmp": MaxPoolHead, "gsp": SumPoolHead}
"""The authors' `classifier` -> our head."""

RELEASED = {"frame_size": 224, "num_mels": 128}
"""Input sizes of the released checkpoints; parameters determine the number of tokens, not their grid."""


def from_params(
    params: Mapping[str, Any], config: Mapping[str, Any] = {}, inputs: Mapping[str, Sequence[int]] | None = None
) -> MBT:
    """Build the model that computes what the authors' `MBT` computes with these parameters, ready to evaluate.

    The model takes {"rgb": (B, 3, T, H, W), "spectrogram": (B, 1 or 3, time, mel)} and returns logits for each modality
    (one entry, `fused`, for the classifiers that pool); `mbt_lightning.fuse` of them gives the logits of the authors'
    evaluation. With `temporal_sampling` it takes the sampled frames (`data.sampling.authors_frame_indices` is the
    authors' rule).

    Args:
        params: arrays by name, nested or joined by `/`, as in the authors' checkpoints.
        config: the authors' `config.model`, or a whole configuration with it under `model`. A missing value is read
            from the parameters if possible, else it is the authors' default. `patches` may be a list or
            {"size": list}; the temporal method and `n_sampled_frames` may be in `temporal_encoding_config` or
            here as `temporal` and `n_sampled_frames`; `rgb_shape` and `spec_shape` are the shapes of the inputs.
        inputs: shape of one example of each modality, (3, T, H, W) and (1, time, mel), if it is not in the
            configuration and differs from the released one (224 pixels, 128 mel bins).

    Raises:
        UserError: a setting cannot be represented, or a parameter is missing, unknown or of another shape.
    """
    flat = renumber(flatten(params["params"] if params.keys() == {"params"} else params))
    settings = Settings(flat, config)
    with torch.device("meta"):
        network = settings.build(inputs)
    state, used = state_dict(flat, network)
    unknown = sorted(flat.keys() - used)
    if unknown == ["bottleneck"] and network.fusion is network.unimodal:
        reason = "one modality" if len(network.modalities) == 1 else f"fusion_layer {network.fusion_layer}, the depth"
        warnings.warn(f"parameter 'bottleneck' is not used: with {reason}, nothing is fused", stacklevel=2)
    elif unknown:
        raise UserError(f"parameters that this configuration does not use: {abbreviate(unknown)}")
    check_shapes(network, state)
    network.to_empty(device="cpu")
    network.load_state_dict(state)
    return network.eval()


class Scenic(ModelInit):
    """A checkpoint of the authors' MBT as starting weights.

    Args:
        path: the checkpoint file.
        settings: keys of the authors' `config.model` that cannot be read from the parameters and differ from the
            released ones, e.g. {rgb_shape: [8, 224, 224, 3]}; see `from_params`.
        **common: `load_head`, `inflate` and `leave_cls`.
    """

    def __init__(self, path: str, settings: dict[str, Any] = {}, **common):  # noqa: B006
        super().__init__(**common)
        self.path, self.settings = path, settings

    def read(self) -> MBT:
        """The model in the file."""
        return from_params(read_params(self.path), self.settings)

    def __str__(self) -> str:
        """What is read, for messages."""
        return str(self.path)


class UnknownShapeError(UserError):
    """The number of positions does not fit the given or assumed shape of the input.

    Args:
        found: what does not fit.
        fix: what to do about it in Python; the command line has options for it.
    """

    def __init__(self, found: str, fix: str):
        super().__init__(f"{found}: {fix}")
        self.found = found


class Settings:
    """The authors' settings as ours, from the configuration or, if missing there, from the parameters.

    Args:
        flat: parameters by joined, Linen-numbered names.
        config: the authors' configuration; see `from_params`.

    Raises:
        UserError: a setting that cannot be represented.
    """

    def __init__(self, flat: Mapping[str, np.ndarray], config: Mapping[str, Any]):
        self.flat = flat
        self.config: Mapping[str, Any] = config.get("model") or config
        self.top = config
        self.data: Mapping[str, Any] = config.get("dataset_configs") or {}

        self.modalities = tuple(
            self.get("modality_fusion", [m for m in MODALITIES if f"{embedding_name(m)}/kernel" in flat])
        )
        strangers = [m for m in self.modalities if m not in MODALITIES]
        if strangers or not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise UserError(
                f"modality_fusion is {list(self.modalities)}: the authors' model has "
                f"{', '.join(MODALITIES)}, each at most once"
            )
        classifier = self.get("classifier", "token" if "cls" in flat else "gap")
        if classifier not in HEADS:
            raise UserError(f"classifier is {classifier!r}: choose one of {', '.join(HEADS)}")
        self.head = HEADS[classifier]
        implied = flat["pre_logits/kernel"].shape[-1] if "pre_logits/kernel" in flat else None
        self.representation_size = self.get("representation_size", implied)
        if self.representation_size and self.head is not ClsHead:
            raise UserError(
                f"representation_size is {self.representation_size} with classifier {classifier!r}: "
                "the authors' code has it for 'token' only (it raises NameInUseError with the others)"
            )
        blocks = [name.split("/")[1] for name in flat if name.startswith("Transformer/encoderblock_")]
        self.depth = self.number("num_layers", 1 + max((int(name.split("_")[1]) for name in blocks), default=-1))
        suffixed = any(name.endswith("_spectrogram") for name in blocks)
        self.share_encoder = bool(self.get("share_encoder", "spectrogram" in self.modalities and not suffixed))
        self.use_bottleneck = bool(self.get("use_bottleneck", "bottleneck" in flat))
        self.fusion_layer = self.number("fusion_layer", 0)
        if not 0 <= self.fusion_layer <= self.depth:
            raise UserError(
                f"fusion_layer is {self.fusion_layer}, but the checkpoint has {self.depth} layers: "
                f"give 0 to {self.depth}"
            )
        self.patch = self.patch_sizes()

    @property
    def head_settings(self) -> dict[str, Any]:
        """Arguments of the head."""
        return {"representation_size": self.representation_size} if self.representation_size else {}

    def get(self, key: str, default: Any) -> Any:
        """A value of the model's configuration, else of the whole one; `default` if it is missing or None."""
        values = [config.get(key) for config in (self.config, self.top)]
        return next((value for value in values if value is not None), default)

    def number(self, key: str, default: int) -> int:
        """A whole number of the configuration."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise UserError(f"{key} is {value!r}: give a whole number")
        return int(value)

    def shape(self, key: str, form: str) -> list[int]:
        """The shape of one example, with the axes in `form`, without that of a batch; empty if missing."""
        shape, axes = [int(n) for n in self.get(key, [])], form.count(",") + 1
        if len(shape) not in (0, axes, axes + 1):
            raise UserError(f"{key} is {shape}: give [{form}]")
        return shape[-axes:]

    def array(self, name: str) -> np.ndarray:
        """A parameter by name."""
        if name not in self.flat:
            raise UserError(f"parameter {name!r} is missing; found {abbreviate(sorted(self.flat))}")
        return self.flat[name]

    def patch_sizes(self) -> dict[str, list[int]]:
        """The patch of each modality, (time, height, width) or (height, width), read from the kernels and checked."""
        encoding = self.get("temporal_encoding_config", {})
        self.sampled_frames = encoding.get("n_sampled_frames", self.get("n_sampled_frames", None))
        patch = {m: list(self.array(f"{embedding_name(m)}/kernel").shape[:-2]) for m in self.modalities}
        size = self.get("patches", [])
        size = [int(n) for n in (size.get("size", []) if hasattr(size, "get") else np.ravel(size))]
        implied = {"spectrogram": size[:2]}
        if "rgb" in patch:
            method = encoding.get("method", self.get("temporal", None))
            method = method or ("3d_conv" if len(patch["rgb"]) == 3 else "temporal_sampling")
            if method not in ("3d_conv", "temporal_sampling"):
                raise UserError(f"temporal encoding is {method!r}: choose 3d_conv or temporal_sampling")
            implied["rgb"] = [*size[2:], *size[:2]] if method == "3d_conv" else size[:2]
            if len(patch["rgb"]) != (3 if method == "3d_conv" else 2):
                raise UserError(f"embedding/kernel has a patch {patch['rgb']}, which does not fit {method}")
        for m, kernel in patch.items():
            if size and kernel != implied[m]:
                raise UserError(f"patches is {size}, but the patch of {embedding_name(m)}/kernel is {kernel}")
        return patch

    def build(self, inputs: Mapping[str, Sequence[int]] | None) -> MBT:
        """The model, with its initial weights."""
        shapes = {m: list(inputs[m]) if inputs and m in inputs else self.input_shape(m) for m in self.modalities}
        dim = self.array("Transformer/encoder_norm/scale").shape[0]
        first = f"Transformer/{block_name(self.modalities[0], 0, self.share_encoder)}"
        heads = self.array(f"{first}/MultiHeadDotProductAttention_0/query/kernel").shape[1]
        mlp = self.array(f"{first}/MlpBlock_0/Dense_0/kernel").shape[1]
        implied = {"hidden_size": dim, "num_heads": heads, "mlp_dim": mlp}
        implied["num_classes"] = self.array("output_projection/kernel").shape[-1]
        for name, kernel in self.flat.items():
            if name.endswith("/query/kernel") and kernel.shape[1:2] + kernel.shape[3:] != (heads,):
                raise UserError(f"{name} has the shape {list(kernel.shape)}: not (width, {heads} heads, width / heads)")
        if (kind := self.get("model_dtype_str", "float32")) != "float32":
            raise UserError(f"model_dtype_str is {kind!r}: the model computes in float32; use autocast for others")
        for key, value in implied.items():
            if self.get(key, value) != value:
                raise UserError(f"{key} is {self.get(key, value)}, but the parameters have {value}")
        fuses = len(self.modalities) > 1 and self.fusion_layer < self.depth
        return MBT(
            {m: tuple(shape) for m, shape in shapes.items()},
            implied["num_classes"],
            fusion=self.fusion() if fuses else CrossAttention,  # not built where nothing is fused
            fusion_layer=self.fusion_layer,
            size=EncoderSize(dim, self.depth, heads, mlp / dim),
            patches=self.patch,
            share_encoder=self.share_encoder,
            head=partial(self.head, **self.head_settings),
            drop_path=self.get("stochastic_droplayer_rate", 0.0),
            dropout=self.get("dropout_rate", 0.1),
            attention_dropout=self.get("attention_dropout_rate", 0.1),
        )

    def fusion(self) -> Any:
        """The strategy of the fused layers."""
        if not self.use_bottleneck:
            return JointSelfAttention if self.share_encoder else CrossAttention
        tokens = self.array("bottleneck").shape[1]
        implied = self.number("n_bottlenecks", tokens - self.head.num_cls) + self.head.num_cls
        if implied != tokens:
            raise UserError(
                f"n_bottlenecks is {self.get('n_bottlenecks', None)}, which makes {implied} tokens with this "
                f"classifier, but 'bottleneck' has {tokens}"
            )
        at_test = self.get("test_with_bottlenecks", True)
        return partial(Bottleneck if at_test else TrainOnlyBottleneck, num_bottlenecks=tokens, update="symmetric")

    def input_shape(self, modality: str) -> list[int]:
        """Shape of one example, (C, *grid), with as many tokens as there are positions."""
        tokens = self.array(positions_name(modality)).shape[1] - self.head.num_cls
        find = self.frames_shape if modality == "rgb" else self.spectrogram_shape
        shape, implied = find(tokens)
        if shape is None:
            found = f"{tokens} tokens of {modality} do not come from {implied} in patches {self.patch[modality]}"
            raise UnknownShapeError(found, f"give the shape of one example, inputs={{{modality!r}: [...]}}")
        return shape

    def spectrogram_shape(self, tokens: int) -> tuple[list[int] | None, str]:
        """(1, time, mel) for a number of tokens, and the sizes that were tried, as text."""
        down, across = self.patch["spectrogram"]
        time, mel = self.shape("spec_shape", "time, mel, 3")[:2] or (0, RELEASED["num_mels"])
        if second := list(self.data.get("spec_shape") or []):
            time, mel = second[0] * self.data.get("num_spec_frames", 1), second[1]
        columns = mel // across
        time = time or tokens // max(1, columns) * down
        fits = (time // down) * columns == tokens
        return ([1, time, mel] if fits else None), f"{time} x {mel} values"

    def frames_shape(self, tokens: int) -> tuple[list[int] | None, str]:
        """(3, T, H, W) for a number of tokens, and the sizes that were tried, as text."""
        *duration, down, across = self.patch["rgb"]
        side = self.data.get("crop_size", RELEASED["frame_size"])
        frames, height, width = self.shape("rgb_shape", "frames, height, width, 3")[:3] or (0, side, side)
        frames = self.data.get("num_frames", frames)
        if duration:
            slots = frames // duration[0]
            counts = [frames or tokens // max(1, (height // down) * (width // across)) * duration[0]]
            fitting = [t for t in counts if (t // duration[0]) * (height // down) * (width // across) == tokens]
        else:  # frames are stacked vertically
            wanted = self.sampled_frames or frames
            slots = num_picked(frames, wanted) if frames else wanted
            counts = [slots] if frames else [slots, *range(1, tokens * down // height + 2)]
            fitting = [t for t in counts if (t * height // down) * (width // across) == tokens]
        if not fitting and not self.get("rgb_shape", None) and "crop_size" not in self.data and slots:
            rows = isqrt(tokens // slots)  # square frames of another size
            if rows * rows * slots == tokens:
                return [3, slots * prod(duration), rows * down, rows * across], ""
        return ([3, fitting[0], height, width] if fitting else None), f"frames of {height} x {width}"


def check_shapes(network: MBT, state: Mapping[str, Tensor]) -> None:
    """Refuse parameters whose shapes do not fit."""
    wanted = {name: x.shape for name, x in network.state_dict().items()}
    wrong = [
        f"{name} is {list(x.shape)}, not {list(wanted[name])}" for name, x in state.items() if x.shape != wanted[name]
    ]
    if wrong:
        raise UserError(f"parameters do not fit this configuration: {abbreviate(wrong)}")


def state_dict(flat: Mapping[str, np.ndarray], network: MBT) -> tuple[dict[str, Tensor], set[str]]:
    """The parameters with our names and shapes, and the names of those that were used.

    Raises:
        UserError: parameters are missing.
    """
    used: set[str] = set()
    missing: list[str] = []

    def take(name: str) -> Tensor:
        used.add(name)
        if name not in flat:
            missing.append(name)
            return torch.zeros(1, 1)  # all missing ones are reported together, below
        return tensor(flat[name])

    state = {}
    several = len(network.modalities) > 1
    for m in network.modalities:
        state[f"tokens.{m}.weight"] = filters(take(f"{embedding_name(m)}/kernel"), network.tokens_of(m).patch)
        state[f"tokens.{m}.bias"] = take(f"{embedding_name(m)}/bias")
        if network.head.num_cls:
            state[f"tokens.{m}.cls"] = take(f"cls{m}" if several and m != "rgb" else "cls")
        state[f"tokens.{m}.positions"] = take(positions_name(m))
    for layer in range(len(network.layers)):
        for name in dict.fromkeys(network.block_of(layer, m)[0] for m in network.modalities):
            theirs = block_name(name, layer, shared=name == SHARED)
            state |= {f"layers.{layer}.{name}.{k}": x for k, x in block_state(take, f"Transformer/{theirs}").items()}
    if "fusion.bottleneck" in network.state_dict():
        state["fusion.bottleneck"] = take("bottleneck")
    state |= {"norm.weight": take("Transformer/encoder_norm/scale"), "norm.bias": take("Transformer/encoder_norm/bias")}
    heads = {"head.linear": "output_projection", "head.pre_logits": "pre_logits"}
    for ours, theirs in heads.items():
        if f"{ours}.weight" in network.state_dict():
            state |= {f"{ours}.weight": take(f"{theirs}/kernel").T, f"{ours}.bias": take(f"{theirs}/bias")}
    if missing:
        raise UserError(
            f"parameters are missing: {abbreviate(missing)}; found {abbreviate(sorted(flat.keys() - used))}"
        )
    return state, used


def filters(kernel: Tensor, patch: Sequence[int]) -> Tensor:
    """A convolution's kernel (*patch, in, out) as (out, in, *patch), with an axis of frames if `patch` has one more."""
    return kernel.movedim((-1, -2), (0, 1)).reshape(*kernel.shape[:-3:-1], *patch)


def num_picked(available: int, wanted: int) -> int:
    """How many frames `temporal_sampling` picks: rounding of the step may add one."""
    step = available / (wanted + 1)
    return len(np.arange(step, available, step)) if wanted < available else available


def embedding_name(modality: str) -> str:
    """Name of a modality's patch projection."""
    return "embedding" if modality == "rgb" else f"embedding_{modality}"


def positions_name(modality: str) -> str:
    """Name of a modality's positions."""
    suffix = "" if modality == "rgb" else f"_{modality}"
    return f"Transformer/posembed_input{suffix}/pos_embedding"


def block_name(modality: str, layer: int, shared: bool) -> str:
    """Name of a modality's block in a layer."""
    return f"encoderblock_{layer}" if shared or modality == "rgb" else f"encoderblock_{layer}_{modality}"
