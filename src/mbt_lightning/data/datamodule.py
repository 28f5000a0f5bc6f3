"""The LightningDataModule: from a manifest to batches on the device."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import Tensor
from torch.utils.data import DataLoader

from mbt_lightning.data.augment import CentralCrop, RandomResizedCrop, RgbAugment, SpecAugment
from mbt_lightning.data.dataset import ClipDataset, collate
from mbt_lightning.data.demo import CLASSES, demo_manifest
from mbt_lightning.data.manifest.manifest import Clips, Manifest, read_manifest
from mbt_lightning.data.media.frames import DECODERS, check_decoder
from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.data.records import Batch, DataSpec, Example, WindowSetting
from mbt_lightning.data.samplers import ClipSampler, DrawSampler, InOrder, LazyLoader, Shuffled
from mbt_lightning.data.sampling import chance
from mbt_lightning.data.spectrogram import UNMEASURED, LogMel, Spectrogram
from mbt_lightning.data.store import store_of
from mbt_lightning.errors import UserError
from mbt_lightning.process import serve_parent

STREAMS = {"rgb": "video", "spectrogram": "audio"}
"""The stream of a media file that each modality is made from."""

READ_TIMEOUT_SECONDS = 900
"""A batch that takes longer than this to read ends the run: a decoder hangs."""


class AudioVisualData(L.LightningDataModule):
    """Audio-visual clips: windows are decoded in the workers; all that is bigger is made on the device.

    Args:
        manifest: a `.parquet`, `.jsonl` or `.csv` file (see `mbt_lightning.data.manifest`), or `demo` for
            the embedded data.
        media_root: folder that relative media paths start from; default: the manifest's folder.
        classes: the class list; default: the manifest's own, or `classes.csv` beside it, or else the labels that occur.
        val_split: split to validate on; null: none.
        test_split: split to test on.
        modalities: `rgb`, `spectrogram` or both; set by `model.modalities`.
        window_seconds: length t of the window of pictures and sound.
        num_frames: pictures, uniform in time over the window.
        rgb_window_seconds: length of the window of pictures, if it differs from the sound's.
        synchronous: whether training cuts pictures and sound at the same place of the clip, or each at its own.
        frame_size: side of the square that the model sees, in pixels.
        short_side: larger pictures are shrunk to this shorter side before they leave the worker, in pixels.
        spectrogram: waveform to log-mel.
        rgb_augment: what training does to pictures.
        rgb_crop: what evaluation does to pictures.
        spec_augment: what training does to spectrograms; null: nothing.
        num_test_views: evenly spaced windows of each clip at test; `model.average_views` says how they are averaged.
        sampler: which clips training reads, and in which order: `Shuffled`, `ClassBalanced`, or your own.
        batch_size: clips in a training step over all processes together; each gets its equal part.
        num_workers: worker processes that decode, in each process; 0: decode in the process itself.
        decoder: who decodes pictures: `auto` (decord where it can do right, else PyAV), `decord`, `torchcodec` (the
            extra of that name and the system's FFmpeg; PyAV where it cannot do right) or `pyav`.
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
        modalities: list[str] = ["rgb", "spectrogram"],  # noqa: B006
        window_seconds: float = 8.0,
        num_frames: int = 8,
        rgb_window_seconds: float | None = None,
        synchronous: bool = True,
        frame_size: int = 224,
        short_side: int = 256,
        spectrogram: Spectrogram = LogMel(),  # noqa: B008
        rgb_augment: RgbAugment = RandomResizedCrop(),  # noqa: B008
        rgb_crop: RgbAugment = CentralCrop(),  # noqa: B008
        spec_augment: SpecAugment | None = SpecAugment(),  # noqa: B008
        num_test_views: int = 4,
        sampler: ClipSampler = Shuffled(),  # noqa: B008
        batch_size: int = 64,
        num_workers: int = 2,
        decoder: str = "auto",
        cache: bool = False,
        max_bad_fraction: float = 0.01,
        media: list[str] = [],  # noqa: B006
    ):
        super().__init__()
        check_modalities(modalities)
        counts = {"batch_size": batch_size, "num_test_views": num_test_views, "num_frames": num_frames}
        counts |= {"frame_size": frame_size, "short_side": short_side, "num_workers": num_workers + 1}
        for name, value in counts.items():
            if value < 1:
                raise UserError(
                    f"{name} is {value - (name == 'num_workers')}: give {int(name != 'num_workers')} or more"
                )
        for name, seconds in {"window_seconds": window_seconds, "rgb_window_seconds": rgb_window_seconds}.items():
            if seconds is not None and not 0 < seconds < math.inf:
                raise UserError(f"{name} is {seconds}: give a length above 0")
        if not 0 <= max_bad_fraction <= 1:
            raise UserError(f"max_bad_fraction is {max_bad_fraction}: give a part from 0 to 1")
        if decoder not in DECODERS:
            raise UserError(f"decoder is {decoder!r}: choose one of {', '.join(DECODERS)}")
        self.manifest_path, self.media_root, self.class_file = manifest, media_root, classes
        self.val_split, self.test_split = val_split or "", test_split
        self.modalities = tuple(modalities)
        self.frame_size = frame_size
        self.spectrogram, self.spec_augment = spectrogram, spec_augment
        self.rgb_augment, self.rgb_crop = rgb_augment, rgb_crop
        self.num_test_views, self.batch_size, self.num_workers = num_test_views, batch_size, num_workers
        self.max_bad_fraction = max_bad_fraction
        self.sampler = sampler
        self.media = media
        self.setting = WindowSetting(
            seconds=window_seconds,
            num_frames=num_frames,
            rgb_seconds=rgb_window_seconds,
            synchronous=synchronous,
            sample_rate=spectrogram.sample_rate,
            short_side=short_side,
            decoder=decoder,
            streams=tuple(STREAMS[m] for m in modalities),
            cache=cache,
        )
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest, read once."""
        if self._manifest is None:
            self._manifest = read_manifest(manifest_file(self.manifest_path), self.media_root, self.class_file)
        return self._manifest

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of one example of each modality, (C, *grid)."""
        shapes = {
            "rgb": (3, self.setting.num_frames, self.frame_size, self.frame_size),
            "spectrogram": (1, self.spectrogram.num_frames(self.setting.seconds), self.spectrogram.num_mels),
        }
        return {m: shapes[m] for m in self.modalities}

    @property
    def spec(self) -> DataSpec:
        """What the model must know of the data."""
        if self.manifest_path == "demo":  # known before the clips are made
            names, groups = zip(*CLASSES, strict=True)
            return DataSpec(self.inputs, names, groups)
        return DataSpec(self.inputs, self.manifest.classes, self.manifest.groups)

    @property
    def has_val(self) -> bool:
        """Whether there is a split to validate on."""
        return bool(self.val_split and self.manifest.splits.get(self.val_split))

    def clips(self, stage: str) -> list[Clips]:
        """The splits that a stage reads; refuses one without clips."""
        own = {"fit": "train", "validate": self.val_split, "test": self.test_split}[stage]
        splits = [own, self.val_split] if stage == "fit" and self.has_val else [own]
        return [self.manifest.split(split) for split in splits]

    def prepare_data(self) -> None:
        """Make the embedded clips if they are wanted and not there yet."""
        if self.manifest_path == "demo":
            demo_manifest()

    def setup(self, stage: str) -> None:
        """Refuse a decoder that does not work here, and a spectrogram whose mean and deviation nobody has filled in."""
        check_decoder(self.setting.decoder)
        if "spectrogram" in self.modalities and not self.spectrogram.is_measured:
            raise UserError(UNMEASURED)

    def dataset(self, split: str, num_views: int) -> ClipDataset:
        """The clips of a split, cut into `num_views` windows each, or at random (0)."""
        examples, classes = self.manifest.split(split), self.manifest.classes
        return ClipDataset(examples, classes, self.setting, num_views, self.seed, store_of(self.manifest))

    @property
    def seed(self) -> int:
        """The run's seed, from which windows and order of the clips are drawn."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def train_dataloader(self) -> DataLoader:
        """Random windows of the clips that the sampler draws; where a run goes on inside of an epoch, of the rest."""
        return self.loader(self.dataset("train", num_views=0), self.sampler, LazyLoader, self.batches_done)

    def batches_done(self) -> int:
        """How many batches of the epoch have been trained on."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def val_dataloader(self) -> DataLoader | list:
        """The middle window of every clip; nothing if there is no such split."""
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
            batch.inputs = {m: getattr(self, f"make_{m}")(batch, generator) for m in self.modalities}
            batch.frames = batch.waveform = None
        return batch

    def make_rgb(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """Pictures (B, 3, T, S, S) in [-1, 1]; augmented by the generator's draws, if there is one."""
        assert batch.frames is not None and batch.sizes is not None
        transform = self.rgb_augment if generator else self.rgb_crop
        return transform(batch.frames, batch.sizes, self.frame_size, generator)

    def make_spectrogram(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """Standardised log-mel (B, 1, time, mel); augmented by the generator's draws, if there is one."""
        assert batch.waveform is not None
        x = self.spectrogram.to(batch.waveform.device)(batch.waveform)
        return self.spec_augment(x, generator) if generator and self.spec_augment else x


def begin_worker(number: int) -> None:
    """What a worker process does first: it leaves signals to its parent, and draws its own random numbers."""
    serve_parent()
    if int(os.environ.get("PL_SEED_WORKERS", 0)):
        pl_worker_init_function(number)


def manifest_file(name: str) -> Path:
    """The file of a manifest; `demo` is that of the embedded clips, which are made if they are not there yet."""
    return demo_manifest() if name == "demo" else Path(name)


def check_modalities(modalities: list[str]) -> None:
    """Refuse unknown, doubled or no modalities."""
    for m in modalities:
        if m not in STREAMS:
            raise UserError(f"modality {m!r} is unknown: choose from {', '.join(STREAMS)}")
    if not modalities or len(set(modalities)) != len(modalities):
        raise UserError(f"modalities is {modalities}: name each of {', '.join(STREAMS)} at most once, and at least one")


def media_files(names: list[str]) -> list[Path]:
    """The media files among `names`; of a folder all that lie in it, by their suffix."""
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
