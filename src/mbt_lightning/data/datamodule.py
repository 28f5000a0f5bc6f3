"""The LightningDataModule: from a manifest to batches on the device."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

from mbt_lightning.data.dataset import ClipDataset, WindowSetting, collate
from mbt_lightning.data.demo import CLASSES, demo_manifest
from mbt_lightning.data.manifest.manifest import Clips, Manifest, read_manifest
from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.data.modalities import Modality, Rgb, Spectrogram
from mbt_lightning.data.records import Batch, DataSpec, Example
from mbt_lightning.data.samplers import ClipSampler, DrawSampler, InOrder, LazyLoader, Shuffled
from mbt_lightning.data.sampling import chance
from mbt_lightning.data.store import store_of
from mbt_lightning.data.streams import check_length
from mbt_lightning.errors import UserError, did_you_mean
from mbt_lightning.process import serve_parent

READ_TIMEOUT_SECONDS = 900
"""A batch that takes longer than this to read ends the run: a decoder hangs."""

MOST_CLIPS_TO_COMPARE = 200_000
"""Larger splits are not searched for clips of other splits."""


class AudioVisualData(L.LightningDataModule):
    """Audio-visual clips: windows are decoded in the workers; all that is larger is made on the device.

    Args:
        manifest: a `.parquet`, `.jsonl` or `.csv` file (see `mbt_lightning.data.manifest`), or `demo` for
            the embedded data.
        media_root: folder that relative media paths start from; default: the manifest's folder.
        classes: the class list; default: the manifest's own, or `classes.csv` beside it, or else the labels that occur.
        val_split: split to validate on; null: none.
        test_split: split to test on.
        inputs: what each modality is: `Rgb`, `Spectrogram`, or your own.
        modalities: names of the `inputs` that are used, in their order; set by `model.modalities`.
        window_seconds: length t of the window that is cut out of a clip.
        synchronous: whether training cuts frames and audio at the same place of the clip, or each at its own.
        num_test_views: evenly spaced windows of each clip at test; `model.average_views` sets how they are averaged.
        sampler: which clips training reads, and in which order: `Shuffled`, `ClassBalanced`, or your own.
        batch_size: clips in a training step over all processes together; each gets its equal part.
        num_workers: worker processes that decode, in each process; 0: decode in the process itself.
        cache: whether each worker keeps clips that are not longer than the window decoded in its memory: for small sets
            of short clips, which would be decoded alike in every epoch.
        max_bad_fraction: a run stops when more than this part of a split cannot be read, 0 to 1.
        media: files or folders to predict.

    Raises:
        UserError: a missing file, an unknown label or modality, a value out of range.
    """

    def __init__(
        self,
        manifest: str = "demo",
        media_root: str | None = None,
        classes: str | None = None,
        val_split: str | None = "val",
        test_split: str = "test",
        inputs: dict[str, Modality] = {"rgb": Rgb(), "spectrogram": Spectrogram()},  # noqa: B006, B008
        modalities: list[str] | None = None,
        window_seconds: float = 8.0,
        synchronous: bool = True,
        num_test_views: int = 4,
        sampler: ClipSampler = Shuffled(),  # noqa: B008
        batch_size: int = 64,
        num_workers: int = 2,
        cache: bool = False,
        max_bad_fraction: float = 0.01,
        media: list[str] = [],  # noqa: B006
    ):
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_test_views", num_test_views, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise UserError(f"{name} is {value}: give {least} or more")
        check_length("window_seconds", window_seconds)
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"max_bad_fraction is {max_bad_fraction}: give a part from 0 to 1")
        self.manifest_path, self.media_root, self.class_file = manifest, media_root, classes
        self.val_split, self.test_split = val_split or "", test_split
        self.inputs = used_inputs(inputs, list(inputs) if modalities is None else modalities)
        self.num_test_views, self.batch_size, self.num_workers = num_test_views, batch_size, num_workers
        self.max_bad_fraction = max_bad_fraction
        self.sampler = sampler
        self.media = media
        streams = tuple(dict.fromkeys(modality.stream for modality in self.inputs.values()))
        self.setting = WindowSetting(window_seconds, streams, synchronous, cache)
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest, read once."""
        if self._manifest is None:
            columns = [column for stream in self.setting.streams for column in stream.columns]
            path = manifest_file(self.manifest_path)
            self._manifest = read_manifest(path, self.media_root, self.class_file, columns)
        return self._manifest

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one example of each modality, (C, *grid)."""
        return {m: modality.shape(self.setting.seconds) for m, modality in self.inputs.items()}

    @property
    def spec(self) -> DataSpec:
        """What the model must know about the data."""
        if self.manifest_path == "demo":  # known before the clips are made
            names, groups = zip(*CLASSES, strict=True)
            return DataSpec(self.shapes, names, groups)
        return DataSpec(self.shapes, self.manifest.classes, self.manifest.groups)

    @property
    def has_val(self) -> bool:
        """Whether there is a split to validate on."""
        return bool(self.val_split and self.manifest.splits.get(self.val_split))

    def clips(self, stage: str) -> list[Clips]:
        """The splits that a stage reads; refuses one without clips."""
        own = {"fit": "train", "validate": self.val_split, "test": self.test_split}[stage]
        is_wanted = self.has_val or self.val_split not in ("", "val")  # `val` is the default, which need not exist
        splits = [own, self.val_split] if stage == "fit" and is_wanted else [own]
        return [self.manifest.split(split) for split in splits]

    def shared_clips(self) -> dict[tuple[str, str], int]:
        """Number of clips of the evaluated splits that are also in another split, by the names of both.

        The same segment of the same files counts, whatever the clip is called. Training splits of more than 200,000
        clips are left to `mbt prepare`, which reports such leaks.
        """
        names = list(dict.fromkeys(name for name in ("train", self.val_split, self.test_split) if name))
        segments: dict[str, set[tuple]] = {}
        for name in names:
            clips = self.manifest.splits.get(name, ())
            if len(clips) <= MOST_CLIPS_TO_COMPARE:
                segments[name] = {(c.video, c.audio, c.start_seconds, c.end_seconds) for c in clips}
        pairs = {(b, a): len(segments[a] & segments[b]) for a, b in combinations(segments, 2)}
        return {pair: count for pair, count in pairs.items() if count}

    def prepare_data(self) -> None:
        """Make the embedded clips if they are used and not there yet."""
        if self.manifest_path == "demo":
            demo_manifest()

    def setup(self, stage: str) -> None:
        """Refuse modalities that do not work here, such as a decoder that is not installed."""
        for modality in self.inputs.values():
            modality.check()

    def dataset(self, split: str, num_views: int) -> ClipDataset:
        """The clips of a split, cut into `num_views` windows each, or at random (0)."""
        examples, classes = self.manifest.split(split), self.manifest.classes
        return ClipDataset(examples, classes, self.setting, num_views, self.seed, store_of(self.manifest))

    @property
    def seed(self) -> int:
        """The run's seed, from which windows and order of the clips are drawn."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def train_dataloader(self) -> DataLoader:
        """Random windows of the clips that the sampler draws; in an epoch that is resumed, of the rest."""
        return self.loader(self.dataset("train", num_views=0), self.sampler, LazyLoader, self.batches_done)

    def batches_done(self) -> int:
        """How many batches of the epoch have been trained on."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def val_dataloader(self) -> DataLoader | list:
        """The middle window of every clip; nothing without such a split."""
        return self.loader(self.dataset(self.val_split, num_views=1)) if self.has_val else []

    def test_dataloader(self) -> DataLoader:
        """`num_test_views` windows of every clip."""
        return self.loader(self.dataset(self.test_split, self.num_test_views))

    def predict_dataloader(self) -> DataLoader:
        """`num_test_views` windows of every file of `media`."""
        files = media_files(self.media)
        examples = [Example(str(path), str(path), str(path)) for path in files]
        return self.loader(ClipDataset(examples, (), self.setting, self.num_test_views))

    def loader(
        self,
        dataset: ClipDataset,
        sampler: ClipSampler = InOrder(),  # noqa: B008
        loader: type[DataLoader] = DataLoader,
        batches_done: Callable[[], int] = lambda: 0,
    ) -> DataLoader:
        """A DataLoader over this rank's part of a dataset, without the batches of the epoch that are done."""
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        if self.batch_size % world:
            raise UserError(
                f"batch_size {self.batch_size} cannot be shared evenly by {world} processes: "
                f"give a multiple of {world} (it counts the clips of all processes together)"
            )
        per_rank = self.batch_size // world
        draws = DrawSampler(dataset, world, rank, sampler, self.seed, lambda: batches_done() * per_rank)
        return loader(
            dataset,
            batch_size=per_rank,
            sampler=draws,
            collate_fn=collate,
            drop_last=dataset.num_views == 0 and len(draws) >= per_rank,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            timeout=READ_TIMEOUT_SECONDS if self.num_workers else 0,
            worker_init_fn=begin_worker,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Make the model's inputs on the device: augmented in training, plain otherwise."""
        generator = None
        if self.trainer is not None and self.trainer.training:
            number = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
            source = chance("augment", self.seed, self.trainer.current_epoch, number, self.trainer.global_rank)
            generator = torch.Generator().manual_seed(source.getrandbits(63))
        if len(batch):
            batch.inputs = {m: modality.make(batch, generator) for m, modality in self.inputs.items()}
            batch.content = {}
            for m, x in batch.inputs.items():
                if tuple(x.shape[1:]) != tuple(self.shapes[m]):
                    raise UserError(
                        f"modality {m!r}: shape() is {self.shapes[m]}, but make() gave {tuple(x.shape[1:])}"
                    )
        return batch


def begin_worker(number: int) -> None:
    """Start of a worker process: it leaves signals to its parent and draws its own random numbers."""
    serve_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):
        pl_worker_init_function(number)


def manifest_file(name: str) -> Path:
    """The file of a manifest; for `demo` that of the embedded clips, which are made if they are not there yet."""
    return demo_manifest() if name == "demo" else Path(name)


def used_inputs(inputs: dict[str, Modality], modalities: list[str]) -> dict[str, Modality]:
    """The inputs that are used, in their order; refuses unknown, repeated or no names."""
    for m in modalities:
        if m not in inputs:
            known = ", ".join(inputs) or "none"
            raise UserError(f"modality {m!r} is unknown: data.inputs has {known}{did_you_mean(m, inputs)}")
    if not modalities or len(set(modalities)) != len(modalities):
        raise UserError(f"modalities is {modalities}: name at least one of {', '.join(inputs)}, each at most once")
    return {m: inputs[m] for m in modalities}


def media_files(names: list[str]) -> list[Path]:
    """The media files among `names`, and those in the folders among them, found by their suffix."""
    if not names:
        raise UserError("nothing to predict: name media files or folders, e.g. `mbt predict clips/ --ckpt_path FILE`")
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
            if not inside:
                raise UserError(
                    f"{path}: no media file in this folder (looked for {', '.join(sorted(MEDIA_SUFFIXES))})"
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    return files
