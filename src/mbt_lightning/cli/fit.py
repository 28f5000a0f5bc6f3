"""`mbt fit`, `validate`, `test` and `predict`: from settings to a run, step by step.

What is given last wins: the command line over the files, a later file over an earlier one, and all of them over the
configuration that a checkpoint holds.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.measured import Scale, fill_in_measured
from mbt_lightning.cli.parser import Parser, as_plain, as_text, build_parser, parse
from mbt_lightning.data.datamodule import AudioVisualData, media_files
from mbt_lightning.data.records import UNNAMED, DataSpec
from mbt_lightning.data.spectrogram import MelTransform
from mbt_lightning.errors import UserError
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.process import rank
from mbt_lightning.runs.folder import given_id, new_run_folder
from mbt_lightning.runs.state import RunState
from mbt_lightning.training.bad_clips import BadClipGuard
from mbt_lightning.training.checkpoint import StoredCheckpoint
from mbt_lightning.training.finite import FiniteGuard
from mbt_lightning.training.lightning_internals import restore_fit_progress
from mbt_lightning.training.metrics_csv import MetricsCsv
from mbt_lightning.training.module import AudioVisualClassifier
from mbt_lightning.training.recorder import RunRecorder
from mbt_lightning.training.report import print_predictions, print_scores
from mbt_lightning.training.resume import (
    is_trained,
    own_checkpoint,
    refuse_another_experiment,
    refuse_finished,
    refuse_other_settings,
)
from mbt_lightning.training.saving import LastCheckpoint, WholeFiles
from mbt_lightning.training.stopping import Stop


def fit(arguments: Sequence[str], state: RunState) -> None:
    """`mbt fit`: train, then test the best checkpoint."""
    run = start("fit", arguments, state)
    with without_empty_folder(run):
        print_start(run)
    if run.is_trained:
        test_again(run)
    else:
        run.call_trainer()
        test_best(run)


def validate(arguments: Sequence[str], state: RunState) -> None:
    """`mbt validate`: score a checkpoint on the validation split."""
    run = start("validate", arguments, state)
    run.call_trainer()
    print_scores(run.trainer, "val", run.folder)


def test(arguments: Sequence[str], state: RunState) -> None:
    """`mbt test`: score a checkpoint on the test split."""
    run = start("test", arguments, state)
    run.call_trainer()
    print_scores(run.trainer, "test", run.folder)


def predict(arguments: Sequence[str], state: RunState) -> None:
    """`mbt predict`: print and write the most probable classes of media files."""
    run = start("predict", arguments, state)
    run.call_trainer()
    if run.trainer.is_global_zero:
        assert run.folder is not None
        print_predictions(run.trainer, run.model, run.folder)
        guard = next(c for c in run.trainer.callbacks if isinstance(c, BadClipGuard))
        if failed := guard.bad.get("predict"):
            raise UserError(f"{len(failed)} of the files could not be read; see the warnings above")


# ---------------------------------------------------------------------------------------------------------------------
# From settings to a run
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run of the program while it is prepared, and then as it runs.

    Args:
        subcommand: `fit`, `validate`, `test` or `predict`.
        parser: of its settings.
        settings: as parsed; the steps below complete them.
        state: of the run, as its folder records it.
    """

    subcommand: str
    parser: Parser
    settings: Namespace
    state: RunState
    checkpoint: StoredCheckpoint | None = None
    """The checkpoint that is tested, resumed or predicted with."""
    is_resumed_by_id: bool = False
    """Whether the run has an id of its own, by which it finds its checkpoint."""
    is_trained: bool = False
    """Whether its training has ended already, so that only the test is left."""
    scales: dict[str, Scale] = field(default_factory=dict)
    """Where mean and standard deviation of a modality's log-mel come from; only those that were filled in."""
    folder: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration as it is recorded."""
    text: str = ""
    data: AudioVisualData = field(init=False)
    model: AudioVisualClassifier = field(init=False)
    trainer: Trainer = field(init=False)

    @property
    def runs(self) -> Path:
        """Folder that all runs' folders lie in."""
        return Path(self.settings.runs)

    def call_trainer(self) -> None:
        """Let the trainer do the subcommand; a run that is refused before it starts leaves no empty folder."""
        settings = self.settings
        names = ("ckpt_path", "weights_only", "verbose", "return_predictions")
        options = {name: settings[name] for name in names if name in settings}
        with without_empty_folder(self):
            getattr(self.trainer, self.subcommand)(model=self.model, datamodule=self.data, **options)


def start(subcommand: str, arguments: Sequence[str], state: RunState) -> Run:
    """Everything before the first batch: settings, folder, data, model and trainer of a run."""
    quieten()
    command_line, parser = expand(subcommand, arguments), build_parser(subcommand)
    run = Run(subcommand, parser, parse(parser, command_line), state, command_line.checkpoint)
    for step in STEPS:
        step(run)
    return run


def set_seed(run: Run) -> None:
    """Seed all random numbers; a seed that is drawn is recorded."""
    seed = run.settings.seed_everything
    if seed is not False:
        run.settings.seed_everything = seed_everything(None if seed is True else seed, workers=True)


def complete(run: Run) -> None:
    """Fill in what follows from the rest: the experiment's name; no second table of Lightning's."""
    settings = run.settings
    settings.base = None  # the files have been read
    settings.experiment = settings.experiment or "default"
    if Path(settings.experiment).is_absolute() or ".." in Path(settings.experiment).parts:
        raise UserError(
            f"experiment is {settings.experiment!r}: it names a folder inside {run.runs}; give a plain name"
        )
    if run.subcommand in ("validate", "test"):
        settings.verbose = False
    if run.subcommand == "predict":
        media_files(settings.data.media)  # refused here, before anything is made or printed


def find_its_checkpoint(run: Run) -> None:
    """Find the checkpoint, where none is named: that of the run which has the given id."""
    if run.subcommand != "fit" and not run.checkpoint:
        raise UserError(f"nothing to {run.subcommand} with: give --ckpt_path FILE, or --experiment NAME and best")
    may_have_own = run.subcommand == "fit" and not run.checkpoint and given_id()
    if may_have_own and (own := own_checkpoint(run.runs / run.settings.experiment / str(given_id()))):
        run.checkpoint, run.is_resumed_by_id = StoredCheckpoint(own, is_own=True), True


def fill_in_scales(run: Run) -> None:
    """Fill in mean and standard deviation of log-mels: the checkpoint's, or else what `mbt stats` has measured."""
    trained = run.checkpoint.config("data")["data"]["inputs"] if run.checkpoint else {}
    run.scales = fill_in_measured(run.settings, trained, f"as in {run.checkpoint}")


def record_settings(run: Run) -> None:
    """Write the resolved configuration as the run's folder and its checkpoints will hold it."""
    run.text, run.config = as_text(run.parser, run.settings), as_plain(run.parser, run.settings)


def resume_by_id(run: Run) -> None:
    """Resume a run that has the given id, if its settings are the same."""
    if run.is_resumed_by_id:
        assert run.checkpoint is not None
        refuse_other_settings(run.checkpoint, run.config)
        run.settings.ckpt_path = str(run.checkpoint)
        run.is_trained = is_trained(run.checkpoint.path.parent.parent)


def check_what_is_left(run: Run) -> None:
    """Refuse to continue a training that is over, or that of another run with another model, data or seed."""
    if run.subcommand != "fit" or not run.checkpoint or run.is_resumed_by_id:
        return
    if not run.checkpoint.is_own:
        refuse_another_experiment(run.checkpoint, run.config)
    if not run.checkpoint.is_own or is_trained(run.checkpoint.path.parent.parent):
        refuse_finished(run.checkpoint, run.settings.trainer.max_epochs, run.settings.trainer.max_steps)


def make_folder(run: Run) -> None:
    """Make or find the run's folder: a resumed run has one; other processes of it learn it from the first."""
    if rank():
        run.folder = Path(os.environ["MBT_RUN_FOLDER"]) if "MBT_RUN_FOLDER" in os.environ else None
        return
    if run.checkpoint and run.checkpoint.is_own and run.subcommand == "fit":
        run.folder = run.checkpoint.path.parent.parent
    else:
        run.folder = new_run_folder(run.runs, run.settings.experiment)
    os.environ["MBT_RUN_FOLDER"] = str(run.folder)
    if given_id():
        run.state.start(run.folder)  # whoever gave the id looks for the run there, whatever becomes of it
    if run.checkpoint and run.checkpoint.is_own:
        print(f"checkpoint: {run.checkpoint}", flush=True)
    elif run.checkpoint and run.subcommand == "fit":
        print(f"continues the training of {run.checkpoint}, as a run of its own", flush=True)


def place_loggers(run: Run) -> None:
    """Let loggers that name no folder write into the run's."""
    for logger in as_list(run.settings.trainer.logger):
        if getattr(logger, "init_args", {}).get("save_dir", "") in (None, "."):
            logger.init_args.save_dir = str(run.folder or ".")


def build(run: Run) -> None:
    """Build data, model and trainer; a run that cannot be built leaves no empty folder."""
    with without_empty_folder(run):
        built = run.parser.instantiate_classes(run.settings)
        run.data = AudioVisualData(modalities=run.settings.model.modalities, **vars(built.data))
        run.model = AudioVisualClassifier(spec_of(run), **vars(built.model))
        run.trainer = build_trainer(run, vars(built.trainer))
        load_weights(run)
    if run.trainer.is_global_zero:
        print(f"run: {run.folder}", flush=True)


STEPS: tuple[Callable[[Run], None], ...] = (
    set_seed,
    complete,
    find_its_checkpoint,
    fill_in_scales,
    record_settings,
    resume_by_id,
    check_what_is_left,
    make_folder,
    place_loggers,
    build,
)
"""How a run is prepared; each step relies on the ones before it."""


def spec_of(run: Run) -> DataSpec:
    """The data as the model must know it; the classes of a prediction are the checkpoint's."""
    if not run.checkpoint:
        return run.data.spec
    known = run.checkpoint.about["spec"]
    trained = DataSpec(run.data.shapes, tuple(known["classes"]), tuple(known["groups"]))
    if run.subcommand == "predict":
        return trained
    same_classes(trained.classes, run.data.spec.classes)
    return run.data.spec


def build_trainer(run: Run, settings: dict[str, Any]) -> Trainer:
    """The trainer, with what every run has: its records, checkpoints, progress bar and `metrics.csv`."""
    chosen = as_list(settings["callbacks"])
    recorder = RunRecorder(run.folder, run.config, run.text, run.state)
    own: list[Callback] = [recorder, BadClipGuard(), FiniteGuard(), Stop(run.state)]
    if settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in chosen):
        own.append(FitProgressBar())
    if settings["enable_checkpointing"] is not False:
        if not any(isinstance(c, ModelCheckpoint) for c in chosen):
            monitor = "val/score" if run.subcommand == "fit" and run.data.has_val else None
            own.append(ModelCheckpoint(filename="best", monitor=monitor, mode="max", enable_version_counter=False))
        own.append(LastCheckpoint())
    plugins = as_list(settings["plugins"])
    if not any(isinstance(p, CheckpointIO) for p in plugins):
        plugins.append(WholeFiles())
    trainer = Trainer(**settings | {"callbacks": [*chosen, *own], "plugins": plugins})
    if run.folder:
        trainer.loggers = [MetricsCsv(run.folder), *trainer.loggers]
    return trainer


def load_weights(run: Run) -> None:
    """Load a model that comes without the state of a training, which Lightning cannot read."""
    if run.checkpoint and run.checkpoint.is_weights_only:
        run.model.on_load_checkpoint(run.checkpoint.content)
        run.model.load_state_dict(run.checkpoint.content["state_dict"])
        run.settings.ckpt_path = None


class FitProgressBar(RichProgressBar):
    """Lightning's Rich progress bar without the number of the run, which is in its folder's name."""

    def get_metrics(self, trainer, pl_module):
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def print_start(run: Run) -> None:
    """Load the starting weights of a new training, and print what will be trained."""
    is_first = run.trainer.is_global_zero
    if is_first:
        run.data.clips("fit")  # a split without clips is refused here, before anything is written
        if run.data.test_split != "test":  # the default, which need not exist
            run.data.clips("test")
        network, spec = run.model.network, run.model.spec
        shapes = ", ".join(f"{m} {'x'.join(map(str, shape))}" for m, shape in spec.inputs.items())
        print(f"data: {run.data.manifest.path} ({len(spec.classes)} classes; {shapes})")
        for m, tokens in network.tokens.items():
            if tokens.is_cut:
                print(f"{m}: patches of {tokens.patch} cover {tokens.covered} of it; the rest at the end is not read")
        for names, count in run.data.shared_clips().items():
            print(f"warning: {count} clips of split {names[0]!r} are also in split {names[1]!r}")
        print_scales(run)
        print(
            f"model: {count_parameters(network) / 1e6:.2f} million parameters, "
            f"{gflops_per_clip(network, spec.inputs):.3f} GFLOPs a clip"
        )
    if not run.checkpoint:
        run.model.load_init()
    if is_first:
        if run.model.init_report:
            print(run.model.init_report.summary())
        if not run.data.has_val:
            split = run.data.val_split
            reason = f"there is no split {split!r} to validate on" if split else "no split is validated on"
            print(f"{reason}: the last checkpoint counts as the best")
        if not run.data.manifest.splits.get(run.data.test_split):
            print(f"there is no split {run.data.test_split!r} to test on: the run will have no score")


def print_scales(run: Run) -> None:
    """Print mean and standard deviation of each log-mel, and where they come from."""
    data = run.data
    for m, modality in data.inputs.items():
        transform = getattr(modality, "transform", None)
        if not isinstance(transform, MelTransform):
            continue
        scale = run.scales.get(m, Scale())
        print(f"{m}: mean {transform.mean:.6g}, std {transform.std:.6g}; {scale.source}")
        if scale.measured and scale.measured.hash != data.manifest.digest:
            print(
                f"warning: they were measured when the manifest's hash was {scale.measured.hash}; it is now "
                f"{data.manifest.digest}; `mbt stats {data.manifest_path}` measures them again"
            )


def test_again(run: Run) -> None:
    """Test a run that is trained already; its records of the training stay as they are."""
    trainer = run.trainer
    if trainer.is_global_zero:
        print("this run is trained already: it is tested again")
    assert run.checkpoint is not None
    content = run.checkpoint.content
    restore_fit_progress(trainer, content)
    best = trainer.checkpoint_callback
    if isinstance(best, ModelCheckpoint):
        path = content["callbacks"].get(best.state_key, {}).get("best_model_path", "")
        best.best_model_path = path if Path(path).is_file() else str(run.checkpoint)
    test_best(run)


def test_best(run: Run) -> None:
    """Test the best checkpoint, if there is a test split."""
    data, trainer = run.data, run.trainer
    if trainer.fast_dev_run or not data.manifest.splits.get(data.test_split):
        return
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else None
    if not best and trainer.is_global_zero:
        print("no validation was run: the test is of the last weights")
    with without_empty_folder(run):
        trainer.test(run.model, datamodule=data, ckpt_path=best or None, verbose=False)
    print_scores(trainer, "test", run.folder)


# ---------------------------------------------------------------------------------------------------------------------
# Helpers
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def without_empty_folder(run: Run) -> Iterator[None]:
    """Remove the folder of a run that fails before anything was written there; Lightning's refusals are the user's."""
    try:
        yield
    except Exception as error:
        if run.folder and run.folder.is_dir() and not any(run.folder.iterdir()):
            run.folder.rmdir()
        if isinstance(error, MisconfigurationException):
            raise UserError(error) from error
        raise


def same_classes(trained: Sequence[str], given: Sequence[str]) -> None:
    """Refuse data whose classes are not those that a checkpoint was trained on; there they may be without names."""
    named = any(name != f"{UNNAMED}{i}" for i, name in enumerate(trained))
    wrong = next((i for i, pair in enumerate(zip(trained, given, strict=False)) if named and pair[0] != pair[1]), None)
    if len(trained) != len(given) or wrong is not None:
        example = f"number {wrong} is {trained[wrong]!r} there and {given[wrong]!r} here" if wrong is not None else ""
        raise UserError(
            f"the checkpoint has {len(trained)} classes and the data {len(given)}{example and ', ' + example}: "
            "give data.classes, the list that it was trained with"
        )


def as_list(value: Any) -> list:
    """A list of what may be None, one thing or several."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def quieten() -> None:
    """Silence the libraries' warnings that appear at every start and that nobody can act upon."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*is deprecated, use `isinstance.treespec.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*predict returned None.*",
        ".*recommended to use `self.log.*sync_dist.*",
        ".*could not find the monitored key.*",
        ".*The dirpath has changed from.*",
        ".*checkpoint that ended before the epoch ended and your dataloader is not resumable.*",  # ours is
    ):
        warnings.filterwarnings("ignore", message=text)
