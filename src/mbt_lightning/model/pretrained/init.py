"""Starting weights: an encoder for each modality, loaded into a model, and a report on every array.

Every source is read as an `Encoder`, which `place` loads into the model. A part that modalities share (the final norm,
a shared block) gets the weights of the first source that has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.pretrained.positions import INFLATIONS, fit_filter, near_square, sample, spread


@dataclass
class Encoder:
    """A trained encoder of one modality, read from a file.

    Args:
        filters: (D, C, *patch).
        positions: (*grid, D), without those of CLS tokens.
        parts: the rest by name: `bias` (D), `cls` (D), `cls_position` (D), `blocks.<l>.<timm's name>`, `norm.weight`,
            `norm.bias`; parts that the file lacks are absent.
        num_heads: number of attention heads, if known from the file.
        stride: from one patch to the next, in units of the input, if patches overlap.
        unknown: names in the file that have no part here.
    """

    filters: Tensor
    positions: Tensor
    parts: dict[str, Tensor]
    num_heads: int | None = None
    stride: int | None = None
    unknown: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of all its parts."""
        return ["filters", "positions", *self.parts]


@dataclass
class Report:
    """What was done with the weights.

    Args:
        source: where they were read from.
        loaded: parameters of the model that were loaded as they are.
        fitted: parameters that were loaded after a change, and the change.
        initial: parameters that keep their initial value.
        unused: weights in the files that were not used.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    fitted: dict[str, str] = field(default_factory=dict)
    initial: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the screen."""
        parts = {
            "fitted": [f"{name} ({how})" for name, how in self.fitted.items()],
            "left at the initial value": in_short(self.initial),
            "not used, from the file": in_short(self.unused),
        }
        lines = [f"init: {self.source}: {len(self.loaded)} parameters loaded as they are"]
        return "\n".join(lines + [f"  {title}: {', '.join(names)}" for title, names in parts.items() if names])

    def text(self) -> str:
        """Every name on its own line."""
        fitted = [f"{name}: {how}" for name, how in self.fitted.items()]
        parts = {"loaded": self.loaded, "fitted": fitted, "initial": self.initial, "unused": self.unused}
        return "\n".join([self.source, *(f"{part} {name}" for part, names in parts.items() for name in names)]) + "\n"


class WeightLoader:
    """Collects the weights of a model, and loads them together.

    Args:
        network: the model; its parameters are changed.
    """

    def __init__(self, network: MBT):
        self.network = network
        self.parameters = dict(network.named_parameters())
        self.report = Report("")
        self.problems: list[str] = []
        self.values: dict[str, Tensor] = {}

    def put(self, name: str, value: Tensor, how: str = "") -> bool:
        """Record a parameter's value unless it has one; returns whether it was recorded."""
        if name in self.values:
            return False
        target = self.parameters[name]
        if target.shape != value.shape:
            self.problems.append(f"{name} is {list(value.shape)} there and {list(target.shape)} here")
            return False
        self.values[name] = value
        if how:
            self.report.fitted[name] = how
        else:
            self.report.loaded.append(name)
        return True

    def finish(self, source: str) -> Report:
        """Load everything at once, and report.

        Raises:
            UserError: some weights do not fit, or none do.
        """
        if self.problems:
            raise UserError(
                f"{abbreviate(self.problems, 3)}; set model.size and model.patches to those that were trained"
            )
        if not self.values:
            raise UserError("nothing in it fits this model")
        with torch.no_grad():
            for name, value in self.values.items():
                self.parameters[name].copy_(value)
        self.report.source = source
        self.report.initial = [name for name in self.parameters if name not in self.values]
        return self.report


class Init:
    """Starting weights; the base of all sources."""

    def __call__(self, network: MBT) -> Report:
        """Load the weights into a model.

        Args:
            network: the model; its parameters are changed.

        Raises:
            UserError: a file cannot be read, or weights do not fit.
        """
        loader = WeightLoader(network)
        try:
            self.fill(loader, network.modalities)
            return loader.finish(str(self))
        except UserError as error:
            raise UserError(f"model.init {self}: {error}") from None

    def fill(self, loader: WeightLoader, modalities: Sequence[str]) -> None:
        """Load the weights of these modalities."""
        raise NotImplementedError

    def __str__(self) -> str:
        """What is read, for messages."""
        return type(self).__name__


class FileInit(Init):
    """Common base of all sources except `PerModality`.

    Args:
        inflate: how a filter trained on images becomes one of t frames: `central`, it is in frame t // 2 (the authors'
            released setting), or `average`, every frame has 1 / t of it.
        leave_cls: modalities whose CLS token stays zero. The authors' loader looks for the audio's under a wrong name:
            `[spectrogram]` reproduces that; by default all modalities get the trained token.

    Raises:
        UserError: an unknown value of `inflate`.
    """

    def __init__(self, inflate: str = "central", leave_cls: list[str] = []):  # noqa: B006
        if inflate not in INFLATIONS:
            raise UserError(f"inflate is {inflate!r}: choose one of {', '.join(INFLATIONS)}")
        self.inflate, self.leave_cls = inflate, tuple(leave_cls)

    def place(self, loader: WeightLoader, modality: str, encoder: Encoder) -> set[str]:
        """Load an encoder for a modality; returns the names of the parts that were used."""
        for m in self.leave_cls:
            if m not in loader.network.modalities:
                raise UserError(f"leave_cls names {m!r}, but the model has {', '.join(loader.network.modalities)}")
        return place(loader, modality, encoder, self.inflate, modality not in self.leave_cls)


class EncoderInit(FileInit):
    """One encoder for every modality: a ViT trained on images, or one trained on audio.

    Args:
        bottlenecks_from_positions: whether bottleneck tokens start as positions resampled to their number, with a CLS
            head preceded by the CLS token's own position, as the authors' loader does; else they are drawn (paper).
        **common: `inflate` and `leave_cls`.
    """

    def __init__(self, bottlenecks_from_positions: bool = False, **common):
        super().__init__(**common)
        self.bottlenecks_from_positions = bottlenecks_from_positions

    def read(self) -> Encoder:
        """The encoder in the file."""
        raise NotImplementedError

    def fill(self, loader: WeightLoader, modalities: Sequence[str]) -> None:
        """Load the weights of these modalities."""
        encoder = self.read()
        used = set().union(*(self.place(loader, m, encoder) for m in modalities))
        if self.bottlenecks_from_positions:
            place_bottlenecks(loader, encoder)
        loader.report.unused += [*(name for name in encoder.names if name not in used), *encoder.unknown]


class ModelInit(FileInit):
    """A whole MBT: the encoder of each modality, and the bottleneck if it has the same number of tokens.

    Args:
        load_head: whether the classifier is loaded too; it must have the same classes in the same order.
        **common: `inflate` and `leave_cls`.
    """

    def __init__(self, load_head: bool = False, **common):
        super().__init__(**common)
        self.load_head = load_head

    def read(self) -> MBT:
        """The model in the file."""
        raise NotImplementedError

    def fill(self, loader: WeightLoader, modalities: Sequence[str]) -> None:
        """Load the weights of these modalities."""
        source = self.read()
        known = [m for m in modalities if m in source.modalities]
        if not known:
            raise UserError(f"it has {', '.join(source.modalities)}, not {', '.join(modalities)}")
        used: set[str] = set()
        for m in known:
            used |= {name_in(source, m, part) for part in self.place(loader, m, encoder_of(source, m))}
        theirs, ours = ({n: p.shape for n, p in m.head.named_parameters()} for m in (source, loader.network))
        if self.load_head and theirs != ours:
            raise UserError(
                f"load_head: the head is {shapes_of(theirs)} there and {shapes_of(ours)} here: leave it out"
            )
        for name, value in source.named_parameters():
            target = loader.parameters.get(name)
            is_head = name.startswith("head.") and self.load_head
            is_fusion = name.startswith("fusion.") and target is not None and target.shape == value.shape
            if (is_head or is_fusion) and loader.put(name, value):
                used.add(name)
        loader.report.unused += [name for name, _ in source.named_parameters() if name not in used]


class PerModality(Init):
    """A separate source for each modality.

    Args:
        sources: the source of each modality, e.g. a ViT for `rgb` and AST for `spectrogram`.
    """

    def __init__(self, sources: dict[str, Init]):
        self.sources = sources

    def fill(self, loader: WeightLoader, modalities: Sequence[str]) -> None:
        """Load the weights of these modalities."""
        strangers = [m for m in self.sources if m not in modalities]
        if strangers and not set(modalities) <= self.sources.keys():
            raise UserError(f"it has a source for {strangers[0]!r}, but the model has {', '.join(modalities)}")
        for m, source in self.sources.items():
            if m in strangers:
                loader.report.unused.append(f"the source for {m}")
                continue
            try:
                source.fill(loader, [m])
            except UserError as error:
                raise UserError(f"{m}: {error}") from None

    def __str__(self) -> str:
        """What is read, for messages."""
        return ", ".join(f"{m}: {source}" for m, source in self.sources.items())


def place(loader: WeightLoader, modality: str, encoder: Encoder, inflate: str, with_cls: bool) -> set[str]:
    """Load an encoder for a modality.

    Args:
        loader: the model.
        modality: whose tokens and blocks get the weights.
        encoder: the weights.
        inflate: see `positions.fit_filter`.
        with_cls: whether the CLS token is loaded too.

    Returns:
        The names of the encoder's parts that were used.

    Raises:
        UserError: patches or positions cannot be fitted, or the number of attention heads differs.
    """
    parts, network, prefix = encoder.parts, loader.network, f"tokens.{modality}"
    tokens = network.tokens_of(modality)
    blocks = [network.block_of(layer, modality) for layer in range(len(network.layers))]
    heads = blocks[0][1].attn.num_heads
    if encoder.num_heads not in (None, heads):
        raise UserError(f"the encoder has {encoder.num_heads} attention heads there and {heads} here: set model.size")

    fitted = {"filters": (f"{prefix}.weight", *fit_filter(encoder.filters, tokens.weight.shape, inflate))}
    positions, how = fit_positions(encoder.positions, tokens.grid, encoder.stride, tokens.patch)
    if tokens.cls is not None:
        row = parts.get("cls_position", tokens.positions[0, 0].detach().cpu())
        how += "" if "cls_position" in parts else f"{', ' * bool(how)}the CLS token's row left at its initial value"
        positions = torch.cat([row[None], positions]) if len(row) == positions.shape[1] else positions
    fitted["positions"] = (f"{prefix}.positions", positions[None], how)

    names = {"bias": f"{prefix}.bias", "norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    if tokens.cls is not None and with_cls:
        names["cls"] = f"{prefix}.cls"
    for layer, (name, block) in enumerate(blocks):
        names |= {f"blocks.{layer}.{part}": f"layers.{layer}.{name}.{part}" for part in block.state_dict()}
    used = {part for part, (name, value, how) in fitted.items() if loader.put(name, value, how)}
    for part, name in names.items():
        if part in parts and loader.put(name, parts[part].view(1, 1, -1) if part == "cls" else parts[part]):
            used.add(part)
    if "positions" in used and tokens.cls is not None and "cls_position" in parts:
        used.add("cls_position")
    return used


def fit_positions(grid: Tensor, sides: Sequence[int], stride: int | None, patch: Sequence[int]) -> tuple[Tensor, str]:
    """Positions for another grid of patches.

    Patches that overlapped in training are closer together than ours: each of ours gets the interpolated position at
    its own place, and positions beyond our end are dropped (a place up to one patch beyond the last gets the last). If
    ours reach further, the grid is stretched.

    Args:
        grid: (*grid, D) positions.
        sides: the grid of the model.
        stride: from one patch of `grid` to the next, in units of the input; None: they do not overlap.
        patch: the patches of the model, which do not overlap.

    Returns:
        (prod(sides), D), and a text on how they were made, empty if they are unchanged.

    Raises:
        UserError: the grid has more axes than the model's.
    """
    there, here = "x".join(map(str, grid.shape[:-1])), "x".join(map(str, sides))
    if stride and len(sides) == grid.ndim - 1:
        places = [torch.arange(n, dtype=torch.double) * p / stride for n, p in zip(sides, patch, strict=True)]
        if all(at[-1] <= n for at, n in zip(places, grid.shape, strict=False)):
            taken = sample(grid, places).flatten(0, -2)
            return taken, f"{there} -> {here}: interpolated at our patches, stride {stride}"
    if tuple(grid.shape[:-1]) == tuple(sides):
        return grid.flatten(0, -2), ""
    tiled = f", repeated {sides[0]} times" if len(sides) >= grid.ndim and sides[0] > 1 else ""
    if tuple(sides[len(sides) - grid.ndim + 1 :]) == tuple(grid.shape[:-1]):
        return spread(grid, sides), f"{there}{tiled}" if tiled else ""
    return spread(grid, sides), f"{there} -> {here}: resampled{tiled}"


def place_bottlenecks(loader: WeightLoader, encoder: Encoder) -> None:
    """Start bottleneck tokens as positions, as the authors' loader does; does nothing to a model without them.

    Args:
        loader: the model.
        encoder: gives the positions: the CLS token's with a CLS head, then a near-square grid of the others.
    """
    name = "fusion.bottleneck"
    if name not in loader.parameters:
        return
    count = loader.parameters[name].shape[1]
    with_cls = loader.network.head.num_cls and "cls_position" in encoder.parts
    rows = [encoder.parts["cls_position"][None]] if with_cls else []
    how = "position of the CLS token" if with_cls else ""
    if rest := count - len(rows):
        sides = near_square(rest)
        rows.append(spread(encoder.positions, sides))
        how += f"{' and ' * bool(how)}positions resampled to {sides[0]}x{sides[1]}"
    loader.put(name, torch.cat(rows)[None], how)


def encoder_of(network: MBT, modality: str) -> Encoder:
    """One modality's encoder of a model, sharing its memory.

    Args:
        network: the model.
        modality: one of its modalities.
    """
    tokens = network.tokens_of(modality)
    positions = tokens.positions.detach()[0]
    parts: dict[str, Tensor] = {"bias": tokens.bias}
    if tokens.cls is not None:
        parts |= {"cls": tokens.cls[0, 0], "cls_position": positions[0]}
    blocks = [network.block_of(layer, modality)[1] for layer in range(len(network.layers))]
    for layer, block in enumerate(blocks):
        parts |= {f"blocks.{layer}.{name}": x for name, x in block.state_dict().items()}
    parts |= {"norm.weight": network.norm.weight, "norm.bias": network.norm.bias}
    grid = positions[network.head.num_cls :].view(*tokens.grid, -1)
    parts = {name: x.detach() for name, x in parts.items()}
    return Encoder(tokens.weight.detach(), grid, parts, blocks[0].attn.num_heads)


def shapes_of(parameters: Mapping[str, torch.Size]) -> str:
    """Names and shapes of parameters in one line."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in parameters.items())


def name_in(network: MBT, modality: str, part: str) -> str:
    """The parameter of a model that a part of `encoder_of` is, or is contained in."""
    kind, _, rest = part.partition(".")
    if kind == "blocks":
        layer, _, rest = rest.partition(".")
        return f"layers.{layer}.{network.block_of(int(layer), modality)[0]}.{rest}"
    own = {"filters": "weight", "bias": "bias", "cls": "cls", "cls_position": "positions", "positions": "positions"}
    return f"tokens.{modality}.{own[kind]}" if kind in own else part


def in_short(names: Sequence[str]) -> list[str]:
    """Names, with those of whole blocks grouped by range and number: layers.0-11.spectrogram.* (144)."""
    families: dict[str, list[int]] = {}
    for name in names:
        kind, *rest = name.split(".")
        if kind in ("layers", "blocks"):
            family = f"{kind}.{{}}.{rest[1]}.*" if kind == "layers" else f"{kind}.{{}}.*"
            families.setdefault(family, []).append(int(rest[0]))
        else:
            families[name] = []
    return [
        f"{family.format('-'.join(map(str, sorted({min(at), max(at)}))))} ({len(at)})" if at else family
        for family, at in families.items()
    ]
