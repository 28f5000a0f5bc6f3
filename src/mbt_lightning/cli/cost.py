"""`mbt cost`: what a model costs, part by part, and what every other way to fuse would cost."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mbt_lightning.cli.arguments import NEWEST, expand
from mbt_lightning.cli.parser import build_network, build_parser, parse
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.errors import UserError
from mbt_lightning.model.authors_flops import gflops_as_coded
from mbt_lightning.model.flops import Inputs, Part, by_part, count_parameters, multiply_adds
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, Fusion, Geometry, JointSelfAttention
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.size import EncoderSize
from mbt_lightning.process import RUNS
from mbt_lightning.runs.folder import find_checkpoint
from mbt_lightning.training.checkpoint import read_about

AUDIOSET_CLASSES = 527

CONVENTIONS = (
    "GFLOPs are billions of multiply-adds of one clip, patch embedding and head included. Full layers: every layer "
    "updates all its tokens. As run: what this program computes, whose last layer updates only the tokens that the "
    "head reads. As coded: the authors' released code, full layers, where cross-attention runs each modality's block "
    "over all tokens and joint self-attention needs a shared encoder; B counts true tokens, of which that code makes "
    "one more than its setting with a CLS head. –: that code has no such model, e.g. no sequential bottleneck. Fused "
    "from the depth on, every strategy is late fusion."
)


def main(arguments: list[str]) -> None:
    """Print the cost of an experiment, which is given as for `mbt test`.

    Args:
        arguments: the words after `mbt cost`.

    Raises:
        UserError: wrong options or files.
    """
    parser = argparse.ArgumentParser(
        prog="mbt cost",
        usage="mbt cost [--config FILE ...] [--classes N] [OPTION VALUE ...]",
        description="Print what a model costs: parameters and multiply-adds of each part, and of every way to fuse.",
        epilog="Files and options are those of `mbt fit` and `mbt test`, --ckpt_path included; without any, the model "
        "has its default settings (ViT-B) and the classes of the embedded clips. Nothing is run, and no clip is read.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="number of classes; default: those of the checkpoint or manifest"
    )
    try:
        own, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(error) from None
    if own.classes is not None and own.classes < 1:
        raise UserError(f"--classes is {own.classes}: give 1 or more")
    inputs, network = network_of(others, own.classes)
    print_cost(network, inputs)


# ---------------------------------------------------------------------------------------------------------------------
# The network of an experiment
# ---------------------------------------------------------------------------------------------------------------------


def network_of(arguments: list[str], classes: int | None = None) -> tuple[dict[str, tuple[int, ...]], MBT]:
    """The network of an experiment on the meta device, and the shape of one example of each modality, (C, *grid).

    Args:
        arguments: files and options as for `mbt test`, but a checkpoint need not be given.
        classes: number of classes; None: that of the checkpoint if one is given, else of the manifest, or AudioSet's
            where there is no manifest yet.

    Raises:
        UserError: a wrong file, setting or manifest.
    """
    parser = build_parser(*RUNS)  # a run's own configuration can be read, whatever command it was of
    parser.prog = "mbt cost"
    settings = parse(parser, expand(["test", *arguments])[1:])

    def num_classes(data: AudioVisualData) -> int:
        if classes is not None:
            return classes
        if checkpoint := settings.ckpt_path:
            if checkpoint in NEWEST:
                checkpoint = find_checkpoint(Path(settings.runs), settings.experiment, checkpoint)
            return len(read_about(checkpoint)["spec"]["classes"])
        path = data.manifest_path
        if path != "demo" and not Path(path).exists():
            print(
                f"there is no {path} yet: counted with AudioSet's {AUDIOSET_CLASSES} classes; "
                "give --classes N for another number"
            )
            return AUDIOSET_CLASSES
        return len(data.spec.classes)

    return build_network(parser, settings, num_classes)


# ---------------------------------------------------------------------------------------------------------------------
# Every way to fuse
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What a network costs, all of it counted.

    Args:
        name: the way to fuse.
        fusion_layer: the first fused layer.
        parameters: all trained values.
        full_layers: multiply-adds of one clip when every layer updates all its tokens.
        as_run: multiply-adds as this program computes it.
        as_coded: multiply-adds in the authors' code; None: it has no such model.
    """

    name: str
    fusion_layer: int
    parameters: int
    full_layers: int
    as_run: int
    as_coded: int | None


@dataclass(frozen=True)
class Way:
    """A way to fuse, beside which a network is put.

    Args:
        name: what it is called in the table.
        fusion: the strategy.
        share_encoder: whether all modalities use the same blocks in every layer.
    """

    name: str
    fusion: Callable[[Geometry], Fusion]
    share_encoder: bool = False


LATE = Way("late", Fusion)


def ways(num_bottlenecks: int, update: str) -> list[Way]:
    """Every built-in way to fuse before the end.

    Args:
        num_bottlenecks: number B of bottleneck tokens.
        update: rule of the bottleneck, `sequential` or `symmetric`.
    """
    bottleneck = partial(Bottleneck, num_bottlenecks=num_bottlenecks, update=update)
    return [
        Way("joint, shared encoder", JointSelfAttention, share_encoder=True),
        Way("joint, separate below", JointSelfAttention),
        Way("cross-attention", CrossAttention),
        Way(f"bottleneck, B = {num_bottlenecks}", bottleneck),
    ]


def row_of(name: str, network: MBT, inputs: Inputs) -> Row:
    """What a network costs.

    Args:
        name: the way to fuse.
        network: the encoder, of any strategy, head and modalities.
        inputs: shape of one example of each modality, (C, *grid).
    """
    as_coded = gflops_as_coded(network, inputs)
    return Row(
        name,
        network.fusion_layer,
        count_parameters(network),
        full_layers=multiply_adds(network, inputs, full=True),
        as_run=multiply_adds(network, inputs),
        as_coded=None if as_coded is None else round(as_coded * 1e9),
    )


def itself(network: MBT, inputs: Inputs) -> Row:
    """The network as it is; see `row_of`."""
    return row_of(f"this configuration:\n{strategy_of(network)[0]}", network, inputs)


def compare(network: MBT, inputs: Inputs) -> list[Row]:
    """The network with every built-in way to fuse, from early to late.

    Args:
        network: the encoder; of its strategy only the number of tokens and the rule of a bottleneck matter.
        inputs: shape of one example of each modality, (C, *grid).

    Returns:
        The rows of a way one after the other, late fusion last.
    """
    depth, layers = len(network.layers), fusion_layers(network)
    pairs = [(way, layer) for way in ways(*bottleneck_of(network)) for layer in layers if layer < depth]
    return [row_of(way.name, fused(network, inputs, way, layer), inputs) for way, layer in [*pairs, (LATE, depth)]]


def fused(network: MBT, inputs: Inputs, way: Way, fusion_layer: int) -> MBT:
    """A network of the same sizes and head that fuses in another way, on the meta device."""
    geometry = network.unimodal.geometry
    with torch.device("meta"):
        return MBT(
            inputs,
            network.head.num_classes,
            fusion=way.fusion,
            fusion_layer=fusion_layer,
            size=EncoderSize(geometry.dim, len(network.layers), geometry.num_heads, geometry.mlp_ratio),
            patches={m: list(network.tokens_of(m).patch) for m in network.modalities},
            share_encoder=way.share_encoder,
            head=lambda *_: copy.deepcopy(network.head),
        )


def strategy_of(network: MBT) -> list[str]:
    """A network's strategy in words: its name, then its settings."""
    fusion = network.fusion
    words = ["late" if type(fusion) is Fusion else type(fusion).__name__]
    if isinstance(fusion, Bottleneck):
        words += [fusion.update, f"B = {fusion.bottleneck.shape[1]}"]
    return [*words, "shared encoder"] if network.shares_encoder else words


def bottleneck_of(network: MBT) -> tuple[int, str]:
    """Number of tokens and rule of the network's bottleneck; the default ones if it has none."""
    if isinstance(network.fusion, Bottleneck):
        return network.fusion.bottleneck.shape[1], network.fusion.update
    defaults = signature(Bottleneck).parameters
    return defaults["num_bottlenecks"].default, defaults["update"].default


def fusion_layers(network: MBT) -> list[int]:
    """About seven layers, evenly from 0 to the depth (0, 2, ... 12 for twelve layers), and the network's own."""
    depth = len(network.layers)
    return sorted({round(i * depth / 6) for i in range(7)} | {network.fusion_layer})


# ---------------------------------------------------------------------------------------------------------------------
# Printed
# ---------------------------------------------------------------------------------------------------------------------


def print_cost(network: MBT, inputs: Inputs) -> None:
    """Print the sizes, what each part costs, and the table of all ways to fuse.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    console = Console()
    for m in network.modalities:
        print(f"{m}: {' x '.join(map(str, inputs[m]))}, {network.tokens_of(m).positions.shape[1]} tokens")
    width = network.unimodal.geometry.dim
    print(f"{len(network.layers)} layers of width {width}, {network.head.num_classes} classes")
    is_alone = len(network.modalities) == 1
    if not is_alone:
        print(f"fusion layer {network.fusion_layer}: {', '.join(strategy_of(network))}")
    console.print(parts_table(by_part(network, inputs)))
    if is_alone:
        print("one modality: there is nothing to fuse")
        return
    console.print(ways_table([itself(network, inputs), *compare(network, inputs)]))
    console.print(CONVENTIONS, highlight=False)


def parts_table(parts: list[Part]) -> Table:
    """A row for each part, and their sum."""
    parameters, multiply_adds = sum(p.parameters for p in parts), sum(p.multiply_adds for p in parts)
    in_millions, in_billions = figures(parameters, 1e6), figures(multiply_adds, 1e9)
    table = Table(title="this configuration, as run", show_footer=True)
    table.add_column("part", "total")
    table.add_column("parameters (M)", in_millions(parameters), justify="right")
    table.add_column("GFLOPs", in_billions(multiply_adds), justify="right")
    for part in parts:
        table.add_row(part.name, in_millions(part.parameters), in_billions(part.multiply_adds))
    return table


def ways_table(rows: list[Row]) -> Table:
    """A row for each way to fuse and fusion layer, with a line between the ways."""
    in_millions = figures(max(row.parameters for row in rows), 1e6)
    in_billions = figures(max(row.full_layers for row in rows), 1e9)
    table = Table("strategy", title="every way to fuse, GFLOPs by three conventions")
    for name in ("fusion\nlayer", "parameters\n(M)", "full\nlayers", "as\nrun", "as\ncoded"):
        table.add_column(name, justify="right", no_wrap=True)
    above = ""
    for row in rows:
        if row.name != above:
            table.add_section()
        table.add_row(
            row.name if row.name != above else "",
            str(row.fusion_layer),
            in_millions(row.parameters),
            *("–" if value is None else in_billions(value) for value in (row.full_layers, row.as_run, row.as_coded)),
        )
        above = row.name
    return table


def figures(largest: int, unit: float) -> Callable[[int], str]:
    """How to write numbers in a unit: with as many decimals for all as give the largest six figures."""
    decimals = max(0, 6 - len(str(int(largest / unit))))
    return lambda value: f"{value / unit:.{decimals}f}"
