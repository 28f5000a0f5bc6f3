"""The arrays in `goldens/`, which the authors' code computed, and what of them our model must give."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from paths import GOLDENS
from torch import Tensor

from mbt_lightning.data.sampling import authors_frame_indices
from mbt_lightning.model.mbt import MBT, fuse
from mbt_lightning.model.pretrained import scenic


@dataclass(frozen=True)
class Reference:
    """One model of the authors' code.

    Args:
        name: what it is called.
        config: the authors' settings.
        arrays: inputs (`in/`), parameters (`param/`), results (`out/`, `mid/`, `grad/`) by name.
    """

    name: str
    config: dict
    arrays: dict[str, np.ndarray]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays under a prefix, without it."""
        return {k.removeprefix(prefix): x for k, x in self.arrays.items() if k.startswith(prefix)}

    def model(self, **changed) -> MBT:
        """Our model with its parameters."""
        return scenic.from_params(self.part("param/"), self.config | changed)

    def inputs(self) -> dict[str, Tensor]:
        """Its inputs as ours: channels first, frames picked."""
        found = self.part("in/")
        inputs = {}
        if "spectrogram" in found:
            inputs["spectrogram"] = torch.from_numpy(found["spectrogram"]).permute(0, 3, 1, 2)
        if "rgb" in found:
            frames = torch.from_numpy(found["rgb"]).permute(0, 4, 1, 2, 3)
            if self.config["temporal"] == "temporal_sampling":
                picked = authors_frame_indices(frames.shape[2], self.config["n_sampled_frames"])
                frames = frames[:, :, picked]
            inputs["rgb"] = frames
        return inputs

    def gradient_errors(self) -> dict[str, float]:
        """Relative error of the gradient of each parameter, of the mean square of the logits, summed over the entries.

        The attention's biases without those of the keys, whose gradient is zero but for rounding.
        """
        model = self.model()
        theirs, _ = scenic.state_dict(self.part("grad/"), model)
        sum(x.square().mean() for x in model(self.inputs()).values()).backward()
        errors = {}
        for name, p in model.named_parameters():
            pair = (p.grad, theirs[name])
            if name.endswith("attn.qkv.bias"):
                pair = tuple(torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in pair)
            errors[name] = float((pair[0] - pair[1]).norm() / pair[1].norm())
        return errors

    def bfloat16_difference(self) -> float:
        """Largest difference of the fused logits under bfloat16 autocast."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            rough = fuse({m: x.float() for m, x in self.model()(self.inputs()).items()})
        return largest(rough, self.arrays["out/logits"])


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def references() -> dict[str, Reference]:
    """All models by name."""
    first = load("bottleneck")
    found = [Reference("released settings, small", json.loads(str(first.pop("config_json"))), first)]
    packed = load("settings")
    for key in packed:
        name, _, kind = key.partition("/")
        if kind == "layout":
            layout, values, at = json.loads(str(packed[key])), packed[f"{name}/values"], 0
            arrays = {}
            for array, shape in layout["arrays"].items():
                size = int(np.prod(shape))
                arrays[array] = values[at : at + size].reshape(shape)
                at += size
            found.append(Reference(name, layout["config"], arrays))
    return {reference.name: reference for reference in found}


def differences(reference: Reference) -> dict[str, float]:
    """Largest absolute differences of fused logits, of each entry's logits and of all tokens.

    Logits come from the fast path (only what the head reads is updated in the last layer); `slow` are those read out
    of all tokens.
    """
    model, inputs = reference.model(), reference.inputs()
    with torch.no_grad():
        logits, (tokens, shared) = model(inputs), model.encode(inputs)
        slow = model.head(tokens, shared)
    every = torch.cat([tokens[m] for m in reference.config["modality_fusion"]], dim=1)
    apart = {m: x for m, x in reference.part("out/train_logits/").items() if reference.config["test_with_bottlenecks"]}
    return {
        "logits": largest(fuse(logits), reference.arrays["out/logits"]),
        "slow": largest(fuse(slow), reference.arrays["out/logits"]),
        "each": max((largest(logits[m], x) for m, x in apart.items()), default=0.0),
        "tokens": largest(every, reference.arrays["out/tokens"]),
    }


def largest(ours: Tensor, theirs: np.ndarray) -> float:
    """The largest absolute difference; the shapes must be the same."""
    assert tuple(ours.shape) == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours.detach().float().numpy() - theirs).max())
