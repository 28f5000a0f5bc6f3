"""`mbt cost`: what a model costs, part by part, and what every other way to fuse would cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import prod
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from mbt_lightning.cli.arguments import NEWEST, expand
from mbt_lightning.cli.parser import build_network, build_parser, parse
from mbt_lightning.config.trusted import TRUST_HELP
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.errors import UserError
from mbt_lightning.model import authors_flops as arithmetic
from mbt_lightning.model.authors_flops import LATE, Shape, Way, find_way, ways
from mbt_lightning.model.blocks import Block
from mbt_lightning.model.flops import Part, blocks_of, by_part, count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, Fusion, JointSelfAttention
from mbt_lightning.model.mbt import MBT, SHARED
from mbt_lightning.process import RUNS
from mbt_lightning.runs.folder import find_checkpoint
from mbt_lightning.training.checkpoint import read_about

AUDIOSET_CLASSES = 527

CONVENTIONS = (
    "GFLOPs are billions of multiply-adds of one clip, patch embedding and head included. Full layers: every layer "
    "updates all its tokens. As run: what this program computes, whose last layer updates only the tokens that the "
    "head reads. As coded: the authors' released code, full layers, where cross-attention runs each modality's block "
    "over all tokens and joint self-attention needs a shared encoder; B counts true tokens, of which that code makes "
    "one more than its setting says with a CLS head. –: a strategy that this arithmetic does not know, or no model of "
    "theirs. Fused from the depth on, every strategy is late fusion."
)


def main(arguments: list[str]) -> None:
    """Print the cost of an experiment, which is given as for `mbt test`.

    Args:
        arguments: what stands behind `mbt cost`.

    Raises:
        UserError: options or files that make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="mbt cost",
        usage="mbt cost [--config FILE ...] [--classes N] [OPTION VALUE ...]",
        description="Print what a model costs: parameters and multiply-adds of each part, and of every way to fuse.",
        epilog="Files and options are those of `mbt fit` and `mbt test`, --ckpt_path included; without any, the model "
        "has its default settings (ViT-B) and the classes of the embedded clips. Nothing is run, and no clip is read. "
        + TRUST_HELP,
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
        UserError: a file, a setting or a manifest that makes no sense.
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


BUILT_IN = (Bottleneck, CrossAttention, Fusion, JointSelfAttention)
"""The strategies that arithmetic knows."""


def way_of(network: MBT) -> Way | None:
    """The way that a network fuses; None if arithmetic does not know its strategy."""
    if type(network.fusion) not in BUILT_IN:
        return None
    return find_way(type(network.fusion).__name__, has_shared_encoder(network), *bottleneck_of(network))


def has_shared_encoder(network: MBT) -> bool:
    """Whether all modalities use the same blocks in every layer."""
    return all(SHARED in blocks_of(network, layer) for layer in range(len(network.layers)))


@dataclass(frozen=True)
class Row:
    """What a network would cost with a certain way to fuse; numbers that arithmetic does not know are None.

    Args:
        name: the way to fuse.
        fusion_layer: the first fused layer.
        parameters: all trained values.
        full_layers: multiply-adds of one clip when every layer updates all its tokens.
        as_run: multiply-adds as this program computes it.
        as_coded: multiply-adds in the authors' code; None also: it has no such model.
    """

    name: str
    fusion_layer: int
    parameters: int
    full_layers: int | None
    as_run: int
    as_coded: int | None


def itself(network: MBT, inputs: dict[str, tuple[int, ...]]) -> Row:
    """The network as it is: parameters and work as run are counted, the rest is arithmetic.

    Args:
        network: the encoder, of any strategy.
        inputs: shape of one example of each modality, (C, *grid).
    """
    layer, as_run = network.fusion_layer, round(gflops_per_clip(network, inputs) * 1e9)
    way = way_of(network)
    known = cost_of(network, inputs, way, layer) if way else None
    return Row(
        f"this configuration:\n{strategy_of(network)[0]}",
        layer,
        count_parameters(network),
        full_layers=known.full_layers if known else None,
        as_run=as_run,
        as_coded=known.as_coded if known else None,
    )


def strategy_of(network: MBT) -> list[str]:
    """A network's strategy in words: its name, then what it is set to."""
    fusion = network.fusion
    words = ["late" if type(fusion) is Fusion else type(fusion).__name__]
    if isinstance(fusion, Bottleneck):
        words += [fusion.update, f"B = {fusion.bottleneck.shape[1]}"]
    return [*words, "shared encoder"] if has_shared_encoder(network) else words


def compare(network: MBT, inputs: dict[str, tuple[int, ...]]) -> list[Row]:
    """The network with every built-in way to fuse, from early to late, by arithmetic.

    Args:
        network: the encoder; its strategy plays no role but for the number of tokens and the rule of its bottleneck.
        inputs: shape of one example of each modality, (C, *grid).

    Returns:
        The rows of a way one after the other, late fusion last; see `cost_of`.
    """
    depth, layers = len(network.layers), fusion_layers(network)
    pairs = [(way, layer) for way in ways(*bottleneck_of(network)) for layer in layers if layer < depth]
    return [cost_of(network, inputs, way, layer) for way, layer in [*pairs, (LATE, depth)]]


def shape_of(network: MBT, inputs: dict[str, tuple[int, ...]]) -> Shape:
    """The numbers of a network.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    patches = [network.tokens_of(m) for m in network.modalities]
    tokens = [t.positions.shape[1] for t in patches]
    block: Block = next(iter(blocks_of(network, 0).values()))  # type: ignore[assignment]
    num_read = len(network.modalities) if network.head.per_modality else 1
    head_values = sum(linear.weight.numel() for linear in network.head.modules() if isinstance(linear, nn.Linear))
    channels = [inputs[m][0] for m in network.modalities]
    return Shape(
        tokens=tuple(tokens),
        kept=tuple(len(range(n)[network.head.keep]) for n in tokens),
        dim=block.mlp.fc1.in_features,
        hidden_dim=block.mlp.fc1.out_features,
        depth=len(network.layers),
        embedding=sum(prod(t.grid) * t.weight[:, 0].numel() * c for t, c in zip(patches, channels, strict=True)),
        embedding_as_coded=sum(prod(t.grid) * t.weight.numel() for t in patches),
        head=num_read * head_values,
    )


def cost_of(network: MBT, inputs: dict[str, tuple[int, ...]], way: Way, fusion_layer: int) -> Row:
    """What a network costs with one way to fuse, by the arithmetic of `mbt_lightning.model.authors_flops`.

    Args:
        network: the encoder, whose sizes count.
        inputs: shape of one example of each modality, (C, *grid).
        way: the way to fuse.
        fusion_layer: the first fused layer, 0 to depth.

    Returns:
        Parameters and multiply-adds of one clip, patch embedding and head included.
    """
    shape, number = shape_of(network, inputs), len(network.modalities)
    separate_layers = 0 if way.share_encoder else fusion_layer if way.one_block_for_all else shape.depth
    blocks = shape.depth + separate_layers * (number - 1)
    block = count_parameters(next(iter(blocks_of(network, 0).values())))
    around = sum(count_parameters(module) for module in (network.tokens, network.norm, network.head))
    cost = arithmetic.cost(shape, way, fusion_layer)
    return Row(
        way.name,
        fusion_layer,
        parameters=around + blocks * block + way.num_bottlenecks * shape.dim,
        full_layers=cost.full_layers,
        as_run=cost.as_run,
        as_coded=cost.as_coded,
    )


def bottleneck_of(network: MBT) -> tuple[int, str]:
    """Number of tokens and rule of the network's bottleneck; the usual ones if it has none."""
    if isinstance(network.fusion, Bottleneck):
        return network.fusion.bottleneck.shape[1], network.fusion.update
    usual = signature(Bottleneck).parameters
    return usual["num_bottlenecks"].default, usual["update"].default


def fusion_layers(network: MBT) -> list[int]:
    """About seven layers, evenly from 0 to the depth (0, 2, ... 12 for twelve layers), and the network's own."""
    depth = len(network.layers)
    return sorted({round(i * depth / 6) for i in range(7)} | {network.fusion_layer})


# ---------------------------------------------------------------------------------------------------------------------
# Printed
# ---------------------------------------------------------------------------------------------------------------------


def print_cost(network: MBT, inputs: dict[str, tuple[int, ...]]) -> None:
    """Print the sizes, what each part costs, and the table of all ways.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    shape, console = shape_of(network, inputs), Console()
    for m, tokens in zip(network.modalities, shape.tokens, strict=True):
        print(f"{m}: {' x '.join(map(str, inputs[m]))}, {tokens} tokens")
    print(f"{shape.depth} layers of width {shape.dim}, {network.head.linear.out_features} classes")
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
    """A row a part, and their sum."""
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
    """A row a way to fuse and fusion layer, with a line between the ways."""
    in_millions = figures(max(row.parameters for row in rows), 1e6)
    in_billions = figures(max(row.full_layers or row.as_run for row in rows), 1e9)
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
