"""`mbt import` and `mbt export`: a whole model as `model.safetensors`, and an overlay to test and predict with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from mbt_lightning.checkpoint import read_checkpoint
from mbt_lightning.data.manifest import read_classes
from mbt_lightning.data.records import UNNAMED, DataSpec
from mbt_lightning.errors import UserError
from mbt_lightning.expand import NEWEST
from mbt_lightning.model.fusion import Bottleneck
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.pretrained.files import METADATA
from mbt_lightning.model.pretrained.flax import read_params
from mbt_lightning.model.pretrained.scenic import Settings, from_params
from mbt_lightning.run import find_checkpoint

FRAMES_PER_SECOND = 25
FRAME_STRIDE = 2
RELEASED_FUSION_LAYER = 8
RELEASED_DROP_PATH = 0.3
"""What the authors' released configuration has, and their parameters do not tell."""


def import_tool(arguments: Sequence[str]) -> None:
    """Run `mbt import`."""
    if list(arguments[:1]) not in (["scenic"], ["-h"], ["--help"]):
        raise UserError(
            f"mbt import {' '.join(arguments[:1])}: what can be imported is `scenic`, the authors' checkpoints; "
            "starting weights of other models are named by model.init"
        )
    parser = Words("mbt import scenic", "Turn a checkpoint of the authors' code (google-research/scenic) into ours.")
    add = parser.add_argument
    add("checkpoint", help="the file, as the authors' code wrote it (mbtb32_..., checkpoint_3)")
    add("--out", required=True, help="folder to write model.safetensors and experiment.yaml into")
    add("--classes", help="classes.csv with the names of the classes in index order; default: class_0, class_1, ...")
    add(
        "--fusion_layer",
        type=int,
        help=f"first fused layer, which no parameter tells (released: {RELEASED_FUSION_LAYER})",
    )
    add("--modality_fusion", nargs="+", help="order of the modalities (released: spectrogram rgb)")
    add("--classifier", help="token, gap, gmp or gsp; default: token if there is a CLS token, else gap")
    add("--no_test_bottlenecks", action="store_true", help="evaluate without bottlenecks (test_with_bottlenecks=False)")
    add("--frame_size", type=int, default=224, help="side of the pictures in pixels (released: 224)")
    add("--n_sampled_frames", type=int, help="frames picked by temporal_sampling; default: what the positions tell")
    add("--num_mels", type=int, default=128, help="mel bins (released: 128)")
    add(
        "--drop_path", type=float, default=RELEASED_DROP_PATH, help=f"stochastic depth (released: {RELEASED_DROP_PATH})"
    )
    options = parser.parse(arguments[1:] if arguments[0] == "scenic" else arguments)
    import_scenic(**vars(options))


def import_scenic(
    checkpoint: str,
    out: str,
    classes: str | None = None,
    fusion_layer: int | None = None,
    modality_fusion: Sequence[str] | None = None,
    classifier: str | None = None,
    no_test_bottlenecks: bool = False,
    frame_size: int = 224,
    n_sampled_frames: int | None = None,
    num_mels: int = 128,
    drop_path: float = RELEASED_DROP_PATH,
) -> None:
    """Write a checkpoint of the authors' MBT as `model.safetensors` and `experiment.yaml`; print what was found.

    Args:
        checkpoint: a flax msgpack file of google-research/scenic.
        out: folder to write into; its two files must not exist.
        classes: `classes.csv` with the names of the classes in index order.
        fusion_layer: first fused layer; the released 8 if the model is deep enough.
        modality_fusion: order of the modalities.
        classifier: token, gap, gmp or gsp.
        no_test_bottlenecks: whether the modalities exchange nothing at evaluation.
        frame_size: side of the pictures in pixels.
        n_sampled_frames: frames that `temporal_sampling` picks.
        num_mels: mel bins.
        drop_path: stochastic depth, for those who train on.

    Raises:
        UserError: a file that cannot be read, or options that do not fit it.
    """
    params = read_params(checkpoint)
    model: dict[str, Any] = {
        "dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "stochastic_droplayer_rate": drop_path,
        "test_with_bottlenecks": not no_test_bottlenecks,
        "spec_shape": [1, 0, num_mels, 3],  # of which the positions tell the number of rows
    }
    told = {"modality_fusion": modality_fusion, "classifier": classifier, "n_sampled_frames": n_sampled_frames}
    model |= {key: value for key, value in told.items() if value is not None}
    found = Settings(params, model)
    if len(found.modalities) > 1:
        model["fusion_layer"] = RELEASED_FUSION_LAYER if fusion_layer is None else fusion_layer
        if fusion_layer is None and found.depth < RELEASED_FUSION_LAYER:
            raise UserError(f"the model has {found.depth} layers, fewer than the released ones: give --fusion_layer")
    network = from_params(params, {"model": model, "dataset_configs": {"crop_size": frame_size}})
    names = class_names(classes, network.head.linear.out_features)
    channels = {"rgb": 3, "spectrogram": 1}
    spec = DataSpec({m: (channels[m], *network.tokens_of(m).size) for m in network.modalities}, *names)
    config: dict[str, Any] = {
        "experiment": Path(out).name,
        "model": model_settings(network, found),
        "data": data_settings(spec),
    }
    assumed = [f"fusion layer {network.fusion_layer}"] if len(network.modalities) > 1 else []
    assumed += [f"order {', '.join(network.modalities)}", f"pictures of {frame_size} pixels", f"{num_mels} mel bins"]
    header = [
        f"The checkpoint {Path(checkpoint).name} of the authors' code (google-research/scenic), by mbt import scenic.",
        f"Told by its parameters: {describe(network)}.",
        f"Not told, so assumed: {'; '.join(assumed)}.",
        "The recipe of the authors' spectrograms was not released; theirs were standardised by mean 1.102, std 2.762.",
        "The mean and std below belong to the recipe below, which is the paper's. Frames are uniform over a window.",
    ]
    write_model(Path(out), dict(network.state_dict()), config, spec, header)


def model_settings(network: MBT, found: Settings) -> dict[str, Any]:
    """The settings of `model` that build the network."""
    block = network.block_of(0, network.modalities[0])[1]
    dim, hidden = block.mlp.fc1.in_features, block.mlp.fc1.out_features
    settings: dict[str, Any] = {"task": "Multilabel", "modalities": list(network.modalities)}
    if network.fusion is not network.unimodal:
        settings["fusion"] = {"class_path": type(network.fusion).__name__}
        if isinstance(network.fusion, Bottleneck):
            count = network.fusion.bottleneck.shape[1]
            settings["fusion"]["init_args"] = {"num_bottlenecks": count, "update": network.fusion.update}
    return settings | {
        "fusion_layer": network.fusion_layer,
        "size": {
            "dim": dim,
            "depth": len(network.layers),
            "num_heads": block.attn.num_heads,
            "mlp_ratio": hidden / dim,
        },
        "patches": {m: list(network.tokens_of(m).patch) for m in network.modalities},
        "share_encoder": found.share_encoder,
        "head": found.head,
        "representation_size": found.representation_size,
        "drop_path": found.get("stochastic_droplayer_rate", 0.0),
    }


def data_settings(spec: DataSpec) -> dict[str, Any]:
    """The settings of `data` that give the inputs which the model was trained on."""
    data: dict[str, Any] = {
        "num_test_views": 4,
        "rgb_crop": {"class_path": "CentralCrop", "init_args": {"fraction": 0.875}},
    }
    if "rgb" in spec.inputs:
        _, frames, height, width = spec.inputs["rgb"]
        if height != width:
            raise UserError(f"pictures are {height} x {width}: the data makes square ones")
        seconds = frames * FRAME_STRIDE / FRAMES_PER_SECOND
        data |= {"window_seconds": seconds, "num_frames": frames, "frame_size": height}
        data["short_side"] = round(height / 0.875)
    if "spectrogram" in spec.inputs:
        _, rows, mels = spec.inputs["spectrogram"]
        settings = {"num_mels": mels, "mean": -1.7, "std": 3.8}
        if "rgb" in spec.inputs:
            data["rgb_window_seconds"] = data["window_seconds"]
        data |= {"window_seconds": rows / 100, "spectrogram": {"class_path": "LogMel", "init_args": settings}}
    return data


def class_names(path: str | None, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and groups of the classes, from a file or by number."""
    if path is None:
        return tuple(f"{UNNAMED}{i}" for i in range(count)), ()
    if not Path(path).is_file():
        raise UserError(f"--classes {path}: no such file")
    names, groups = read_classes(Path(path))
    if len(names) != count:
        raise UserError(f"{path} names {len(names)} classes, but the checkpoint has {count}")
    return names, groups


def describe(network: MBT) -> str:
    """What a network is, in a line."""
    block = network.block_of(0, network.modalities[0])[1]
    parts = [
        f"{' and '.join(network.modalities)}",
        f"{len(network.layers)} layers of width {block.mlp.fc1.in_features}",
    ]
    if network.fusion is not network.unimodal:
        parts.append(type(network.fusion).__name__)
        if isinstance(network.fusion, Bottleneck):
            parts[-1] += f" of {network.fusion.bottleneck.shape[1]} tokens"
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    return ", ".join([*parts, f"{network.head.linear.out_features} classes", f"{millions:.2f} million parameters"])


def export_tool(arguments: Sequence[str]) -> None:
    """Run `mbt export`."""
    parser = Words("mbt export", "Write the model of a checkpoint as safetensors, with an overlay to use it by.")
    parser.add_argument("checkpoint", help="a .ckpt file, or last or best of the newest run of an --experiment")
    parser.add_argument("--out", required=True, help="folder to write model.safetensors and experiment.yaml into")
    parser.add_argument("--experiment", default="", help="name of an experiment, for last and best")
    parser.add_argument("--runs", default="runs", help="folder of all runs")
    options = parser.parse(arguments)
    checkpoint = options.checkpoint
    if checkpoint in NEWEST:
        checkpoint = find_checkpoint(Path(options.runs), options.experiment, checkpoint)
    export(str(checkpoint), options.out)


def export(checkpoint: str, out: str) -> None:
    """Write the model of a checkpoint as `model.safetensors` and `experiment.yaml`.

    Args:
        checkpoint: a `.ckpt` file of a run.
        out: folder to write into; its two files must not exist.

    Raises:
        UserError: a file that is no checkpoint, or a folder that cannot be written.
    """
    content = read_checkpoint(checkpoint)
    about = content["mbt_lightning"]
    config = {key: about["config"][key] for key in ("experiment", "model", "data")}
    config["model"] = {key: value for key, value in config["model"].items() if key not in ("init", "compile")}
    config["data"] = {key: value for key, value in config["data"].items() if key != "media"}
    tensors = {name.removeprefix("network."): x for name, x in content["state_dict"].items()}
    inputs = {m: tuple(shape) for m, shape in about["spec"]["inputs"].items()}
    spec = DataSpec(inputs, tuple(about["spec"]["classes"]), tuple(about["spec"]["groups"]))
    header = [f"The model of the run {config['experiment']} ({Path(checkpoint).name}), by mbt export."]
    write_model(Path(out), tensors, config, spec, header)


def write_model(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], spec: DataSpec, header: Sequence[str]
) -> None:
    """Write `model.safetensors` and `experiment.yaml`, and say how to use them.

    Args:
        folder: where to; made if missing.
        tensors: parameters of the network by name.
        config: `experiment`, `model` and `data` of the configuration.
        spec: what the model must know of the data.
        header: lines of comment for the overlay.

    Raises:
        UserError: the folder cannot be made, or holds such a file already.
    """
    weights, overlay = folder / "model.safetensors", folder / "experiment.yaml"
    for path in (weights, overlay):
        if path.exists():
            raise UserError(f"{path} exists already: give another --out, or remove it")
    about = {
        "config": config,
        "spec": {"inputs": {m: list(s) for m, s in spec.inputs.items()}}
        | {"classes": list(spec.classes), "groups": list(spec.groups)},
    }
    uses = [
        "",
        f"  mbt test --config {overlay} --data.manifest FILE",
        f"  mbt predict FILE --config {overlay}",
        f"  mbt fit --config FILE --model.init Checkpoint --model.init.path {weights}",
    ]
    text = "".join(f"# {line}".rstrip() + "\n" for line in [*header, *uses])
    text += yaml.safe_dump({"ckpt_path": weights.name, **config}, sort_keys=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = weights.with_suffix(".safetensors.new")
        save_file({name: x.contiguous() for name, x in tensors.items()}, unfinished, {METADATA: json.dumps(about)})
        unfinished.replace(weights)
        overlay.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    print("\n".join([*header, f"wrote {weights} and {overlay}", *uses[1:]]))


class Words(argparse.ArgumentParser):
    """The words of a tool; what is wrong with them is told in one line."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description, allow_abbrev=False, exit_on_error=False)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The options in the words."""
        try:
            return self.parse_args(list(words))
        except argparse.ArgumentError as error:
            raise UserError(f"{self.prog}: {error}") from None

    def error(self, message: str):
        """Say what is wrong."""
        raise UserError(f"{self.prog}: {message}")
