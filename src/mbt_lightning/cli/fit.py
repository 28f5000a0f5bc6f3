"""The program `mbt`: fit, validate, test and predict, from stacked experiment files and the command line.

What is said last wins: the command line over the files, a later file over an earlier one, and all of them over the
configuration that a checkpoint carries.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from mbt_lightning.cli.arguments import NEWEST, expand
from mbt_lightning.config.settings import fingerprint
from mbt_lightning.data.augment import RgbAugment
from mbt_lightning.data.datamodule import AudioVisualData, manifest_file
from mbt_lightning.data.measure import Measured, kind_of, read_measured, scale_given, settings_of
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.mixup import Mixup
from mbt_lightning.data.records import UNNAMED, DataSpec
from mbt_lightning.data.spectrogram import MelTransform
from mbt_lightning.errors import UserError, exit_with_error, one_line
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import Fusion
from mbt_lightning.model.pretrained.ast import AST
from mbt_lightning.model.pretrained.init import Init, PerModality
from mbt_lightning.model.pretrained.scenic import Scenic
from mbt_lightning.model.pretrained.vit import GoogleViT, TimmViT
from mbt_lightning.process import SIGNALS, bind_children, die_with_parent, rank
from mbt_lightning.runs.folder import find_checkpoint, given_id, new_run_folder
from mbt_lightning.runs.state import RunState
from mbt_lightning.training.bad_clips import BadClipGuard
from mbt_lightning.training.checkpoint import Checkpoint, is_weights_only, read_about, read_checkpoint
from mbt_lightning.training.metrics_csv import MetricsCsv
from mbt_lightning.training.module import AudioVisualClassifier
from mbt_lightning.training.recorder import RunRecorder
from mbt_lightning.training.report import print_predictions, print_scores
from mbt_lightning.training.resume import is_trained, own_checkpoint, refuse_other_settings
from mbt_lightning.training.saving import LastCheckpoint, WholeFiles
from mbt_lightning.training.stopping import Stop
from mbt_lightning.training.tasks import Task

SOURCES = (GoogleViT, TimmViT, AST, Scenic, Checkpoint, PerModality)
"""Starting weights: imported here so that files may name them without their module."""

TOOLS = {
    "prepare": "mbt_lightning.cli.prepare:main",
    "subset": "mbt_lightning.cli.subset:main",
    "stats": "mbt_lightning.cli.stats:main",
    "shard": "mbt_lightning.cli.shard:main",
    "doctor": "mbt_lightning.cli.doctor:main",
    "cost": "mbt_lightning.cli.cost:main",
    "sweep": "mbt_lightning.cli.sweep:main",
    "table": "mbt_lightning.cli.table:main",
    "import": "mbt_lightning.cli.convert:import_tool",
    "export": "mbt_lightning.cli.convert:export_tool",
}
"""What the program does beside the runs: first word to the function that takes the rest; imported when it is called."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program; what a person can mend ends it with one line and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    die_with_parent()
    if arguments and arguments[0] in TOOLS:
        module, _, function = TOOLS[arguments[0]].partition(":")
        try:
            getattr(importlib.import_module(module), function)(arguments[1:])
        except KeyboardInterrupt:
            raise
        except Exception as error:
            tell(error, RunState())
            raise
        return
    state = RunState()
    with SIGNALS.listening():
        bind_children()
        try:
            MbtCLI(expand(arguments), state=state)
            state.end("finished", 0)
        except BaseException as error:
            if number := stopped_by(error):
                stop(number, state)
            if isinstance(error, SystemExit):
                told = " ".join(getattr(error, "__notes__", [])) or "see its output"
                state.end("failed", error.code if isinstance(error.code, int) else 1, told)
            else:
                tell(error, state)
            raise


def stopped_by(error: BaseException) -> int:
    """The signal that an exception comes from; 0 if it comes from none."""
    if isinstance(error, SIGTERMException):
        return SIGNALS.agreed or signal.SIGTERM
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    is_early = isinstance(error, SystemExit) and SIGNALS.received
    return SIGNALS.received if is_early else 0


def stop(number: int, state: RunState) -> NoReturn:
    """End the program as one does that a signal has ended, and say how to go on."""
    name = signal.Signals(number).name
    state.end("stopped", 128 + number, f"stopped by {name}")
    if rank():
        sys.exit(0)  # Lightning kills the first process at once where another one ends with a code
    told = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
    print(f"mbt: {told}; the same command with --ckpt_path last goes on", file=sys.stderr)
    sys.exit(128 + number)  # Lightning's own exit looks like success


def tell(error: BaseException, state: RunState) -> None:
    """End the program with one line if a person can mend the error; else note it down, and it is raised again."""
    told = told_to_the_user(error)
    if told is None:
        state.end("failed", 1, f"{type(error).__name__}: {error}")
        return
    state.end("failed", 2, told)
    if not os.environ.get("MBT_DEBUG"):
        exit_with_error(one_line(told))


def told_to_the_user(error: BaseException | None) -> Exception | None:
    """The error that a person can mend, among an exception and its causes; None if there is none."""
    while error is not None:
        if isinstance(error, UserError | ClipError | MisconfigurationException):
            return error
        error = error.__cause__ or error.__context__
    return None


def subclasses(base: type) -> list[type]:
    """All classes that derive from a class."""
    children: list[type] = base.__subclasses__()
    return [c for child in children for c in (child, *subclasses(child))]


NOISE = (
    r"- Expected a path but \S+ either not accessible or invalid ",
    r"- Does not validate against any of the Union subtypes Subtypes: .*? Errors: ",
    r" Given value type: .*$",
)
"""What jsonargparse adds to its messages and helps nobody."""


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "None", "32", "bf16", "16")
"""What `trainer.precision` may be: the half-precision "true" kinds would round the sound before its spectrogram."""


def check_precision(precision: Any) -> None:
    """Refuse a precision that would round the sound."""
    if str(precision) not in PRECISIONS:
        raise UserError(f"trainer.precision is {precision}: choose one of {', '.join(PRECISIONS)}")


class Parser(LightningArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None):
        """Print the message and leave with exit code 2."""
        if os.environ.get("MBT_DEBUG") and ex:
            raise ex
        text = one_line(message)
        for noise in NOISE:
            text = re.sub(noise, "", text)
        exit_with_error(text + self.hint(text))

    def hint(self, message: str) -> str:
        """The known key or class that is most like an unknown one in the message."""
        found = re.search(r"(?:Key|option|arguments:) ['\"]?(?:--)?([\w.]+)|import path string: (\w+)", message)
        if not found:
            return ""
        bases = (Fusion, Task, Mixup, MelTransform, RgbAugment, Init)
        known = [c.__name__ for b in bases for c in subclasses(b)] if found[2] else [a.dest for a in self._actions]
        close = difflib.get_close_matches(found[1] or found[2], known, n=1, cutoff=0.6)
        return f" (did you mean {close[0]}?)" if close and close[0] not in message else ""


class Progress(RichProgressBar):
    """Lightning's Rich progress bar without the number of the run, which is in its folder's name."""

    def get_metrics(self, trainer, pl_module):  # noqa: D102
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class MbtCLI(LightningCLI):
    """LightningCLI with a folder a run, loggers that live in it, and a test behind every fit.

    Args:
        args: the expanded command line.
        run: whether the first word is one of Lightning's subcommands, which is run; else everything is built only.
        state: of the run, as its folder keeps it.
    """

    checkpoint: str | None = None
    """The checkpoint that is tested, resumed or predicted with."""
    measured: Measured | None = None
    """The measurement that the spectrogram's mean and standard deviation were taken from, if they were."""
    is_trained = False
    """Whether the run has its training behind it, so that only the test is left."""
    scale_source: str = "as configured"
    """Where these two come from, for the reader."""

    def __init__(self, args: list[str], run: bool = True, state: RunState | None = None):
        quieten()
        self.state = state or RunState()
        super().__init__(
            AudioVisualClassifier,
            AudioVisualData,
            args=args,
            run=run,
            parser_class=Parser,
            parser_kwargs={
                "prog": "mbt",
                "description": "Audio-visual classification with transformers: one experiment from clips to scores.",
                "epilog": f"Tools beside the runs, each with its own --help: {', '.join(TOOLS)}.",
            },
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            # The data module shares the clips out among the processes itself.
            trainer_defaults={
                "use_distributed_sampler": False,
                "logger": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is not the model's, the data's or the trainer's."""
        parser.add_argument("--experiment", type=str | None, help="Name of the experiment; default: of its files.")
        parser.add_argument("--base", type=str | None, help="In a file: the file that it builds on.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder that all runs' folders lie in.")
        parser.link_arguments("model.modalities", "data.modalities")
        parser.link_arguments("data", "model.spec", compute_fn=self.spec, apply_on="instantiate")

    def spec(self, data: AudioVisualData) -> DataSpec:
        """The data as the model must know it; classes of a prediction are the checkpoint's."""
        if not self.checkpoint:
            return data.spec
        known = read_about(self.checkpoint)["spec"]
        trained = DataSpec(data.shapes, tuple(known["classes"]), tuple(known["groups"]))
        if self.subcommand == "predict":
            return trained
        same_classes(trained.classes, data.spec.classes)
        return data.spec

    def before_instantiate_classes(self) -> None:
        """Find the run's folder, and put the loggers into it."""
        self.settings = self.config[self.subcommand]
        if self.subcommand in ("validate", "test"):
            self.settings.verbose = False  # our own table says it shorter
        self.settings.base = None  # has been read, and stands in the resolved configuration
        self.settings.experiment = self.settings.experiment or "default"
        settings, runs = self.settings, Path(self.settings.runs)
        resumed = settings.ckpt_path if settings.ckpt_path in NEWEST else None
        if resumed:
            settings.ckpt_path = str(find_checkpoint(runs, settings.experiment, resumed))
        if self.subcommand != "fit" and not settings.ckpt_path:
            raise UserError(f"nothing to {self.subcommand} with: give --ckpt_path FILE, or --experiment NAME and best")
        check_precision(settings.trainer.precision)
        self.checkpoint = settings.ckpt_path
        if self.checkpoint:
            read_about(self.checkpoint)  # refuses, before anything is built, what is none
        goes_on = bool(given_id()) and self.subcommand == "fit" and not self.checkpoint
        if goes_on and (own := own_checkpoint(runs / settings.experiment / str(given_id()))):
            self.checkpoint = str(own)
        self.refuse_unplanned()
        self.fill_in_measured()
        self.text = self._parser(self.subcommand).dump(settings, skip_none=False)
        if goes_on and self.checkpoint:
            refuse_other_settings(Path(self.checkpoint), yaml.safe_load(self.text))
            settings.ckpt_path = self.checkpoint
            self.is_trained = is_trained(Path(self.checkpoint).parent.parent)

        self.folder: Path | None
        if rank():  # processes that this one did not start learn it from the first, see RunRecorder
            self.folder = Path(os.environ["MBT_RUN_FOLDER"]) if "MBT_RUN_FOLDER" in os.environ else None
        else:
            if resumed and self.subcommand == "fit":
                self.folder = Path(settings.ckpt_path).parent.parent
            else:
                self.folder = new_run_folder(runs, settings.experiment)
            os.environ["MBT_RUN_FOLDER"] = str(self.folder)
            if given_id():
                self.state.begin(self.folder)  # whoever gave the id looks for the run there, whatever becomes of it
            if resumed or (goes_on and self.checkpoint):
                print(f"checkpoint: {self.checkpoint}", flush=True)
        if self.checkpoint and is_weights_only(self.checkpoint):
            settings.ckpt_path = None  # which Lightning cannot read; see load_weights
        for logger in as_list(settings.trainer.logger):
            if getattr(logger, "init_args", {}).get("save_dir", "") in (None, "."):
                logger.init_args.save_dir = str(self.folder or ".")

    def refuse_unplanned(self) -> None:
        """Refuse, in a trial of a sweep, settings that are not those that were planned."""
        planned = os.environ.get("MBT_EXPERIMENT")
        text = self._parser(self.subcommand).dump(self.settings, skip_none=False) if planned else ""
        if planned and fingerprint(yaml.safe_load(text)) != planned:
            raise UserError(
                f"these are not the settings that trial {planned} was planned with: a file of the sweep has changed; "
                "start the sweep again"
            )

    def fill_in_measured(self) -> None:
        """Put numbers in the place of the spectrogram's `null`: the checkpoint's, or else those that `mbt stats` found.

        Then they stand in the run's configuration and in its checkpoints, which need no statistics any more.
        """
        data, chosen = self.settings.data, self.settings.data.spectrogram
        given = vars(chosen.get("init_args", {}))
        missing = [name for name in ("mean", "std") if name in given and given[name] is None]
        if "spectrogram" not in self.settings.model.modalities or not missing:
            return
        trained = read_about(self.checkpoint)["config"]["data"] if self.checkpoint else {}
        kind = kind_of(chosen.class_path)
        if scale := scale_given(trained.get("spectrogram"), settings_of(kind, given)):
            self.scale_source = f"as in {self.checkpoint}"
        else:
            self.measured = read_measured(manifest_file(data.manifest), kind, given)
            self.scale_source, scale = f"{' and '.join(missing)} {self.measured}", self.measured._asdict()
        for name in missing:
            given[name] = scale[name]

    def instantiate_classes(self) -> None:
        """Build everything; a run that cannot be built leaves no empty folder behind."""
        try:
            super().instantiate_classes()
        except Exception:
            self.drop_empty_folder()
            raise
        if self.trainer.is_global_zero:
            print(f"run: {self.folder}", flush=True)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; what is refused before it begins leaves no empty folder behind either."""
        try:
            if self.is_trained:
                self.test_again()
            else:
                super()._run_subcommand(subcommand)
        except UserError:
            self.drop_empty_folder()
            raise

    def drop_empty_folder(self) -> None:
        """Leave no folder behind of a run that never began."""
        if self.folder and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse the expanded command line."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: what a checkpoint says of its configuration has been read by `expand`."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add what every run has: its records, checkpoints, progress bar and `metrics.csv`."""
        recorder = RunRecorder(self.folder, yaml.safe_load(self.text), self.text, self.state)
        own: list[Callback] = [recorder, BadClipGuard(), Stop(self.state)]
        chosen = as_list(config.get("callbacks"))
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in chosen):
            own.append(Progress())
        if config["enable_checkpointing"] is not False:
            if not any(isinstance(c, ModelCheckpoint) for c in chosen):
                monitor = "val/score" if self.subcommand == "fit" and self.datamodule.has_val else None
                own.append(ModelCheckpoint(filename="best", monitor=monitor, mode="max", enable_version_counter=False))
            own.append(LastCheckpoint())
        if not any(isinstance(p, CheckpointIO) for p in as_list(config.get("plugins"))):
            config["plugins"] = [*as_list(config.get("plugins")), WholeFiles()]
        trainer = super()._instantiate_trainer(config, callbacks + own)
        if self.folder:
            trainer.loggers = [MetricsCsv(self.folder), *trainer.loggers]
        return trainer

    def load_weights(self) -> None:
        """Load a model that comes without the state of a training, which Lightning does not know."""
        if is_weights_only(self.checkpoint):
            content = read_checkpoint(self.checkpoint)
            self.model.on_load_checkpoint(content)
            self.model.load_state_dict(content["state_dict"])

    before_validate = before_test = before_predict = load_weights

    def before_fit(self) -> None:
        """Say what will be trained."""
        if self.trainer.is_global_zero:
            network, spec = self.model.network, self.model.spec
            shapes = ", ".join(f"{m} {'x'.join(map(str, shape))}" for m, shape in spec.inputs.items())
            print(f"data: {self.datamodule.manifest.path} ({len(spec.classes)} classes; {shapes})")
            if "spectrogram" in spec.inputs:
                self.tell_scale()
            print(
                f"model: {count_parameters(network) / 1e6:.2f} million parameters, "
                f"{gflops_per_clip(network, spec.inputs):.3f} GFLOPs a clip"
            )
        if not self.checkpoint:
            self.model.load_init()
        if self.trainer.is_global_zero:
            if self.model.init_report:
                print(self.model.init_report.summary())
            if not self.datamodule.has_val:
                split = self.datamodule.val_split
                what = f"no split {split!r} to validate on" if split else "nothing is validated on"
                print(f"{what}: the last checkpoint counts as the best")

    def tell_scale(self) -> None:
        """Say which mean and standard deviation the spectrogram has, and since when."""
        data = self.datamodule
        print(f"spectrogram: mean {data.spectrogram.mean:.6g}, std {data.spectrogram.std:.6g}; {self.scale_source}")
        if self.measured and self.measured.hash != data.manifest.digest:
            print(
                f"warning: they were measured when the manifest's hash was {self.measured.hash}; it is "
                f"{data.manifest.digest} now, and `mbt stats {data.manifest_path}` measures anew"
            )

    def test_again(self) -> None:
        """Test a run that is trained already; its records of the training stay as they are."""
        if self.trainer.is_global_zero:
            print("this run is trained already: it is tested again")
        content = read_checkpoint(str(self.checkpoint))
        fit, best = self.trainer.fit_loop, self.trainer.checkpoint_callback
        fit.load_state_dict(content["loops"]["fit_loop"])  # for the step that the scores belong to
        fit.epoch_progress.current.completed = fit.epoch_progress.current.processed
        if isinstance(best, ModelCheckpoint):
            path = content["callbacks"].get(best.state_key, {}).get("best_model_path", "")
            best.best_model_path = path if Path(path).is_file() else str(self.checkpoint)
        self.after_fit()

    def after_fit(self) -> None:
        """Test the best checkpoint, if there is a test split."""
        data, trainer = self.datamodule, self.trainer
        if trainer.fast_dev_run or not data.manifest.splits.get(data.test_split):
            return
        best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else None
        if not best and trainer.is_global_zero:
            print("no validation was run: the test is of the last weights")
        trainer.test(self.model, datamodule=data, ckpt_path=best or None, verbose=False)
        self.after_test()

    def after_test(self) -> None:
        """Print the table of scores."""
        print_scores(self.trainer, "test", self.folder)

    def after_validate(self) -> None:
        """Print the table of scores."""
        print_scores(self.trainer, "val", self.folder)

    def after_predict(self) -> None:
        """Print and write the most probable classes of every file."""
        if self.trainer.is_global_zero:
            assert self.folder is not None
            print_predictions(self.trainer, self.model, self.folder)
            guard = next(c for c in self.trainer.callbacks if isinstance(c, BadClipGuard))
            if failed := guard.bad.get("predict"):
                raise UserError(f"{len(failed)} of the files could not be read; see the warnings above")


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
    """Leave out what libraries say at every start and nobody can act upon."""
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
