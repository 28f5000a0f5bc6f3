"""`mbt import` and `mbt export`: a whole model as `model.safetensors`, and an overlay to test and predict with it."""

from __future__ import annotations

import json
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from mbt_lightning.cli.arguments import NEWEST, find_stored
from mbt_lightning.cli.parser import Parser, tool_parser
from mbt_lightning.config.trusted import TRUST_HELP
from mbt_lightning.data.manifest.manifest import read_classes
from mbt_lightning.data.records import UNNAMED, DataSpec
from mbt_lightning.data.spectrogram import LogMel
from mbt_lightning.disk import replacing
from mbt_lightning.errors import UserError
from mbt_lightning.model.fusion import Bottleneck
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.pretrained.flax import read_params
from mbt_lightning.model.pretrained.scenic import RELEASED, Settings, UnknownShapeError, from_params
from mbt_lightning.model.pretrained.torch_files import METADATA

FRAMES_PER_SECOND, FRAME_STRIDE = 25, 2
"""How the authors' released configuration reads frames."""
TEST_VIEWS = 4
CROP_FRACTION = 0.875
"""224 of 256 pixels."""
RELEASED_FUSION_LAYER = 8


def import_tool(arguments: Sequence[str]) -> None:
    parser = Parser(prog="mbt import", description="Convert checkpoints of other code.")
    kinds = parser.add_subcommands(required=True, dest="kind")
    scenic = Parser(description="A checkpoint of the authors' MBT (google-research/scenic, projects/mbt).")
    scenic.add_argument("checkpoint", help="the file written by their code (mbtb32_..., checkpoint_3)")
    scenic.add_function_arguments(import_scenic, skip={"checkpoint"})
    kinds.add_subcommand("scenic", scenic, help="the authors' MBT")
    options = parser.parse_args(list(arguments))
    import_scenic(**vars(options.scenic))


def import_scenic(
    checkpoint: str,
    out: str,
    classes: str | None = None,
    fusion_layer: int | None = None,
    modality_fusion: list[str] | None = None,
    classifier: str | None = None,
    test_with_bottlenecks: bool = True,
    frame_size: int = RELEASED["frame_size"],
    num_frames: int = 32,
    num_mels: int = RELEASED["num_mels"],
    drop_path: float = 0.3,
) -> None:
    """Write a checkpoint of the authors' MBT as `model.safetensors` and `experiment.yaml`; print a summary.

    Args:
        checkpoint: a flax msgpack file of google-research/scenic.
        out: output folder; its two files must not exist.
        classes: `classes.csv` with the names of the classes in index order; null: class_0, class_1, ...
        fusion_layer: first fused layer, which cannot be read from the parameters; null: the released 8.
        modality_fusion: order of the modalities; null: the released one, spectrogram first.
        classifier: token, gap, gmp or gsp; null: token if there is a CLS token, else gap.
        test_with_bottlenecks: false: the modalities exchange nothing at evaluation.
        frame_size: side of the frames in pixels.
        num_frames: number of frames from which a model with temporal_sampling selects its own.
        num_mels: mel bins.
        drop_path: stochastic depth, for further training.

    Raises:
        UserError: a file that cannot be read, or options that do not fit it.
    """
    for name, value in {"frame_size": frame_size, "num_mels": num_mels}.items():
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    names = read_names(classes)
    params = read_params(checkpoint)
    model: dict[str, Any] = {
        "dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "stochastic_droplayer_rate": drop_path,
        "test_with_bottlenecks": test_with_bottlenecks,
        "spec_shape": [1, 0, num_mels, 3],  # the number of time steps follows from the positions
    }
    given = {"modality_fusion": modality_fusion, "classifier": classifier, "fusion_layer": fusion_layer}
    model |= {key: value for key, value in given.items() if value is not None}
    found = Settings(params, model)
    several = len(found.modalities) > 1
    if several and fusion_layer is None:
        if found.depth < RELEASED_FUSION_LAYER:
            raise UserError(f"the model has {found.depth} layers, fewer than the released ones: give --fusion_layer")
        model["fusion_layer"] = RELEASED_FUSION_LAYER
    if not several and fusion_layer is not None:
        raise UserError(f"fusion_layer is {fusion_layer}, but the model has {found.modalities[0]} only")
    try:
        with warnings.catch_warnings(record=True) as caught:
            network = from_params(params, {"model": model, "dataset_configs": {"crop_size": frame_size}})
    except UnknownShapeError as error:
        raise UserError(f"{error.found}: set --frame_size and --num_mels") from None
    if not test_with_bottlenecks and "fusion.bottleneck" not in network.state_dict():
        raise UserError("test_with_bottlenecks is false, but no bottleneck is in use in this checkpoint")
    count = network.head.num_classes
    names = names or (tuple(f"{UNNAMED}{i}" for i in range(count)), ())
    if len(names[0]) != count:
        raise UserError(f"{classes} names {len(names[0])} classes, but the checkpoint has {count}")
    channels = {"rgb": 3, "spectrogram": 1}
    spec = DataSpec({m: (channels[m], *network.tokens_of(m).size) for m in network.modalities}, *names)
    picks = "rgb" in spec.inputs and len(found.patch["rgb"]) == 2
    data = data_settings(spec, num_frames if picks else None)
    config = {"experiment": Path(out).name, "model": model_settings(network, found), "data": data}
    header = [
        f"The checkpoint {Path(checkpoint).name} of the authors' code (google-research/scenic), by mbt import scenic.",
        f"From its parameters: {describe(network)}.",
        f"Not in them, so from options or the released values: {assumed(network, frame_size, num_mels)}.",
        *(f"{warning.message}." for warning in caught),
    ]
    if "spectrogram" in spec.inputs:
        header.append(
            "The recipe of the authors' spectrograms was not released; theirs were standardised by mean 1.102 and std "
            "2.762. The values below belong to the recipe below, which is the paper's."
        )
    write_model(Path(out), dict(network.state_dict()), config, spec, header)


def read_names(path: str | None) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"classes {path}: no such file")
    return read_classes(Path(path))


def assumed(network: MBT, frame_size: int, num_mels: int) -> str:
    parts = ["a multi-label task"] + ["the pooling"] * (not network.head.num_cls)
    if len(network.modalities) > 1:
        parts += [f"fusion layer {network.fusion_layer}", f"the order {', '.join(network.modalities)}"]
    if "rgb" in network.modalities:
        parts.append(f"frames of {frame_size} pixels, every {FRAME_STRIDE}nd of {FRAMES_PER_SECOND} per second")
    if "spectrogram" in network.modalities:
        parts.append(f"{num_mels} mel bins")
    return "; ".join(parts)


def model_settings(network: MBT, found: Settings) -> dict[str, Any]:
    """The settings of `model` that build the network; `found` are its settings in the authors' code."""
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
        "head": {"class_path": found.head.__name__, "init_args": found.head_settings},
        "drop_path": found.get("stochastic_droplayer_rate", 0.0),
    }


def data_settings(spec: DataSpec, num_frames: int | None = None) -> dict[str, Any]:
    """The settings of `data` for the inputs that the model was trained on, as far as they are known.

    `num_frames` is the number from which those of the input were selected; None: all are used.
    """
    data: dict[str, Any] = {"num_test_views": TEST_VIEWS, "inputs": {}}
    rgb: dict[str, Any] = {}
    if "rgb" in spec.inputs:
        _, frames, height, width = spec.inputs["rgb"]
        if height != width:
            raise UserError(f"the frames are {height} x {width}; only square ones are supported")
        seconds = (num_frames or frames) * FRAME_STRIDE / FRAMES_PER_SECOND
        data["window_seconds"] = seconds
        crop = {"class_path": "CentralCrop", "init_args": {"fraction": CROP_FRACTION}}
        rgb = {"num_frames": frames, "frame_size": height, "short_side": round(height / CROP_FRACTION), "crop": crop}
        data["inputs"]["rgb"] = {"class_path": "Rgb", "init_args": rgb}
    if "spectrogram" in spec.inputs:
        _, steps, mels = spec.inputs["spectrogram"]
        log_mel = LogMel(num_mels=mels)
        settings = {"num_mels": mels, "mean": log_mel.mean, "std": log_mel.std}
        if "rgb" in spec.inputs:
            rgb["window_seconds"] = data["window_seconds"]
        data["window_seconds"] = steps * log_mel.hop_samples / log_mel.sample_rate
        transform = {"class_path": "LogMel", "init_args": settings}
        data["inputs"]["spectrogram"] = {"class_path": "Spectrogram", "init_args": {"transform": transform}}
    return data


def describe(network: MBT) -> str:
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
    return ", ".join([*parts, f"{network.head.num_classes} classes", f"{millions:.2f} million parameters"])


def export_tool(arguments: Sequence[str]) -> None:
    about = "a .ckpt file, or last or best of the newest run of an --experiment"
    description = "Write a model as safetensors, with an overlay to use it."
    parser = tool_parser(export, description, {"checkpoint": {"help": about}})
    parser.epilog = TRUST_HELP
    export(**vars(parser.parse_args(list(arguments))))


def export(checkpoint: str, out: str, experiment: str | None = None, runs: str = "runs") -> None:
    """Write the model of a checkpoint as `model.safetensors` and `experiment.yaml`.

    Args:
        checkpoint: a `.ckpt` file of a run, or `last` or `best` of the newest run of an experiment.
        out: output folder; its two files must not exist.
        experiment: name of the experiment, for `last` and `best`.
        runs: folder of all runs.

    Raises:
        UserError: a file that is not a checkpoint or contains forbidden names, or a folder that cannot be written.
    """
    if checkpoint in NEWEST and not experiment:
        raise UserError(f"{checkpoint}: of which experiment? Add --experiment NAME")
    stored = find_stored(checkpoint, Path(runs), experiment or "")
    if not stored.path.is_file():
        raise UserError(f"{checkpoint}: no such file; give a .ckpt file, or last or best with --experiment NAME")
    content, about = stored.content, stored.about
    config = stored.config("experiment", "model", "data")
    config["model"] = {key: value for key, value in config["model"].items() if key not in TRAINING}
    config["data"] = {key: value for key, value in config["data"].items() if key != "media"}
    tensors = {name.removeprefix("network."): x for name, x in content["state_dict"].items()}
    inputs = {m: tuple(shape) for m, shape in about["spec"]["inputs"].items()}
    spec = DataSpec(inputs, tuple(about["spec"]["classes"]), tuple(about["spec"]["groups"]))
    header = [f"The model of the run {config['experiment']} ({stored.path.name}), by mbt export."]
    write_model(Path(out), tensors, config, spec, header)


TRAINING = ("init", "compile", "optimizer", "warmup_fraction", "label_smoothing", "mixup")
"""Settings of `model` that only training needs."""


def write_model(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], spec: DataSpec, header: Sequence[str]
) -> None:
    """Write `model.safetensors` and `experiment.yaml`, which starts with the `header`; print how to use them."""
    weights, overlay = folder / "model.safetensors", folder / "experiment.yaml"
    if folder.is_file():
        raise UserError(f"--out {folder}: is a file, not a folder")
    for path in (weights, overlay):
        if path.exists():
            raise UserError(f"{path} already exists: give another --out, or remove it")
    about = {
        "config": config,
        "spec": {"inputs": {m: list(s) for m, s in spec.inputs.items()}}
        | {"classes": list(spec.classes), "groups": list(spec.groups)},
    }
    data = "" if config["data"].get("manifest") else " --data.manifest FILE"
    words = [f"test --config {overlay}{data}", f"predict FILE --config {overlay}"]
    words.append(f"fit --config {overlay} --data.manifest FILE --trainer.max_epochs N")
    uses = [f"  mbt {line}" for line in words]
    lines = [line for paragraph in header for line in textwrap.wrap(paragraph, 78)]
    text = "".join(f"# {line}".rstrip() + "\n" for line in [*lines, "", *uses])
    text += yaml.safe_dump({"ckpt_path": weights.name, **config}, sort_keys=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(weights) as unfinished:
            save_file({name: x.contiguous() for name, x in tensors.items()}, unfinished, {METADATA: json.dumps(about)})
            overlay.write_text(text, encoding="utf-8")
            os.chmod(unfinished, overlay.stat().st_mode)  # safetensors makes it private
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    print("\n".join([*lines, f"wrote {weights} and {overlay}", *uses]))
