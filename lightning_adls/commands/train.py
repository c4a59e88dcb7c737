"""Fit, validate, test or predict with one classifier, quantised or not.

Run:
    adls train fit
    adls train fit --run long --trainer.max_epochs 20       # lightning_logs/train/long
    adls train fit --run long --ckpt_path last              # goes on where it stopped
    adls train predict --run long --ckpt_path best          # writes predictions.csv
    adls train test --ckpt_path lightning_logs/train/version_0/checkpoints/best.ckpt
    adls train fit --config configs/train_imdb.yaml
    adls train fit --weights best.ckpt --recipe recipe.yaml   # quantised, from weights

What the command line and the files of ``--config`` say wins over a checkpoint of ``--ckpt_path``.
Arguments of the model that neither of them gives are those of the checkpoint, and those that it
does not hold have the defaults of configs/train.yaml. Data, Trainer and callbacks are always those
of this call, the network (``--model.model``) and ``--recipe`` included.

``--trainer.precision`` is ``32-true`` on a CPU and ``bf16-mixed`` on a GPU unless it is given.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from lightning_adls.budget import REFUSALS, check_accelerator, check_processes, fast_precision
from lightning_adls.classifier import TextClassifier
from lightning_adls.commands.table import defaults_of
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError, OtherNetworkError
from lightning_adls.labs import cli
from lightning_adls.labs.calling import call
from lightning_adls.labs.continuing import (
    SettingsOfThisCall,
    read_checkpoint,
    settings_of_checkpoint,
)
from lightning_adls.labs.hyperparameters import HyperParameters, chosen
from lightning_adls.labs.network import NetworkSection, imported
from lightning_adls.labs.predictions import PredictionWriter
from lightning_adls.labs.run_folder import CHECKPOINTS, find_checkpoint, name_run
from lightning_adls.labs.training_bar import EpochBar
from lightning_adls.locks import exclusive
from lightning_adls.models import FROM_DATA, accepted, check_length, check_outputs
from lightning_adls.transforms import Quantize, summarize

DEFAULTS = defaults_of("train")
COMMANDS = ["fit", "validate", "test", "predict"]
# What each first part of an option is, for the short help.
OPTIONS = {
    "run": "Name of the folder, by default the next version_N.",
    "data": "The data set; --data.ARGUMENT changes one of its arguments.",
    "model": "How the network (--model.model) is trained.",
    "trainer": "Lightning's Trainer; --trainer.ARGUMENT changes one of its arguments.",
    "ckpt_path": "A checkpoint to go on from or to judge: last, best, or the path of a file.",
    "weights": "A checkpoint to start from, quantised or not.",
    "recipe": "A YAML recipe to quantise by.",
    "seed_everything": "Seed of everything.",
    "weights_only": "Whether a checkpoint may hold nothing but tensors and text.",
    "verbose": "Of validate and test: print the metrics.",
    "return_predictions": "Of predict.",
    "optimizer": "Another optimizer than the model's own.",
    "lr_scheduler": "Another schedule than the model's own.",
}
LAB = "train"
say = rank_zero_only(print)  # of several devices
NETWORK = NetworkSection.of(DEFAULTS, "model.model")


class Parser(LightningArgumentParser):
    """Lightning's, with a seed of the data that is null by default."""

    def add_lightning_class_args(
        self, lightning_class: Any, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Add the arguments of a class."""
        if lightning_class is not TextData:
            return super().add_lightning_class_args(lightning_class, *args, **kwargs)
        cli.add_section(self, "data", TextData, set(), instantiate=True)
        return []


class TrainCLI(LightningCLI):
    """Lightning's command line, with the model fitted to the data and errors in one line."""

    model: TextClassifier
    datamodule: TextData
    # Of the checkpoint.
    steps_done: int | None = None
    num_classes: int | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what the classes do not have."""
        parser.set_defaults({NETWORK.name: {"class_path": NETWORK.class_path}})
        for name in ("recipe", "weights", "run"):
            parser.add_argument(f"--{name}", type=str | None, help=OPTIONS[name])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or end with one line."""
        arguments: Sequence[str] = args
        with cli.refusing(ArgumentError, UnicodeDecodeError):
            NETWORK.explain(arguments)
            command = next((each for each in arguments if each in COMMANDS), COMMANDS[0])
            cli.explain(self._subcommand_parsers[command], arguments)
            read = NETWORK.read_files(arguments)
            flags, read = cli.printing(read)
            try:
                self.config = parser.parse_args([*read, *placeholders(parser, read)])
            except ArgumentError as error:
                raise InputValueError(cli.readable(str(error), parser)) from error
            network = replace(NETWORK, command=self.config.subcommand)
            network.drop_overruled_defaults(parser, self.config, read)
            # Not validated: what is required may stand in the script's own YAML.
            self.given = parser.parse_args(read, defaults=False, _skip_validation=True)
            if flags is not None:
                command = self.config.subcommand
                of_command = self._subcommand_parsers[command]
                options = {"skip_unset": False, **flags}
                print(of_command.dump(self.config[command], **options), end="")
                sys.exit(0)

    def _parse_ckpt_path(self) -> None:
        """Find the folder and the checkpoint, and take from it what the user did not give."""
        command = self.config.subcommand
        options, fitting = self.config[command], command == "fit"
        with cli.refusing(ArgumentError):
            self.folder = folder_of_run(options, fitting)
            if self.folder is not None and not fitting:
                # In the folder of a fit, whose arguments stay.
                self.save_config_kwargs["config_filename"] = f"{command}.yaml"
            if options.ckpt_path is None:
                return
            path = Path(options.ckpt_path)
            if options.ckpt_path in ("last", "best"):
                path = find_checkpoint(options.trainer, LAB, options.ckpt_path)
            weights_only = options.get("weights_only") is not False
            content = read_checkpoint(path, LAB, fitting=fitting, weights_only=weights_only)
            say(f"Checkpoint: {path}")
            self.steps_done = content.get("global_step")
            self.num_classes = content.get("hyper_parameters", {}).get("num_classes")
            options.ckpt_path = str(path)
            given = self.given.get(f"{command}.model", Namespace())
            held = settings_of_checkpoint(content, vars(options.model), vars(given))
            self.config = self.parser.parse_object({command: {"model": held}}, self.config)

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(cli.construct, object)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, or end with one line."""
        trainer = self.config_init[self.subcommand].trainer
        if trainer.precision is None:
            kwargs["precision"] = fast_precision(trainer.accelerator)
        with cli.refusing(*REFUSALS):
            check_accelerator(self.config[self.subcommand].trainer.accelerator)
            made = super().instantiate_trainer(**kwargs)
            check_processes(made, LAB)
            return made

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        given = config["callbacks"] or []
        bars = any(isinstance(each, ProgressBar) for each in given if isinstance(given, list))
        if config["enable_progress_bar"] is not False and not bars:
            callbacks = [*callbacks, EpochBar()]
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, as the only process that fits into this folder, or end with one line."""
        with cli.refusing(MisconfigurationException), ExitStack() as stack:
            if self.folder is not None and subcommand == "fit" and self.trainer.is_global_zero:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(self.folder / "run.lock"))
            try:
                super()._run_subcommand(subcommand)
            except (OtherNetworkError, RuntimeError) as error:
                first, *others = str(error).splitlines()
                if others and first.startswith("Error(s) in loading state_dict"):
                    first = others[0].strip()
                elif not isinstance(error, OtherNetworkError):
                    raise
                raise InputValueError(
                    f"{LAB}: ckpt_path={self.config[subcommand].ckpt_path!r} is of another model; "
                    f"repeat the arguments that it was made with: {first}"
                ) from error
        if subcommand == "fit" and self.trainer.global_step == self.steps_done:
            say("Nothing is left to train; raise --trainer.max_epochs or --trainer.max_steps.")

    def instantiate_classes(self) -> None:
        """Build everything, the data included, before any training starts."""
        options = self.config[self.subcommand]
        given_seed = options.data.seed
        with cli.refusing():
            if given_seed is None:
                options.data.seed = int(options.seed_everything)
            data = prepared(options.data, "predict" if self.subcommand == "predict" else "fit")
            options.model.num_classes = data.num_classes or self.num_classes
            if options.model.num_classes is None:
                raise InputValueError(
                    f"{LAB}: the data have no labels; give the --ckpt_path of a model."
                )
            passed = fit_to_data(options.model, data)
            super().instantiate_classes()
            if "num_classes" not in passed:
                check_outputs(self.model.model, options.model.num_classes)
            check_length(self.model.model, self.datamodule.max_length)
            if options.recipe is not None:
                Quantize.load(options.recipe)(self.model.model)
            if options.weights is not None:
                self.model.load_weights(options.weights)
        options.data.seed = given_seed  # config.yaml repeats what was asked for
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # it is a list
            if isinstance(callback, HyperParameters):
                callback.settings = self._settings()
        say(summarize(self.model.model))

    def _settings(self) -> dict[str, str | float]:
        """What tells this fit from others: what the user gave, and what is mostly varied."""
        options = self.config[self.subcommand]
        given = self.given.get(str(self.subcommand), Namespace())
        varied = {
            "learning_rate": options.model.learning_rate,
            "batch_size": options.data.batch_size,
            "max_epochs": options.trainer.max_epochs,
            "seed_everything": int(options.seed_everything),
        }
        return {**varied, **dict(chosen(given.as_dict()))}


def folder_of_run(options: Namespace, fitting: bool) -> Path | None:
    """The folder that the user named; a fit that was begun there is not begun again."""
    if options.run is None:
        return None
    folder = name_run(options.trainer, LAB, options.run)
    if fitting and options.ckpt_path is None and any((folder / CHECKPOINTS).glob("*.ckpt")):
        raise InputValueError(
            f"{LAB}: run={options.run!r} has checkpoints in {folder}; continue it by --ckpt_path "
            "last, or give another --run."
        )
    return folder


def placeholders(parser: LightningArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Values of what the network requires and the data set decides, which is read later."""
    given = parser.parse_args(arguments, defaults=False, _skip_validation=True)
    section = given.get(f"{given.get('subcommand')}.{NETWORK.name}")
    if section is None:
        return []
    parameters = signature(imported(section.class_path)).parameters
    required = [n for n, each in parameters.items() if each.default is each.empty]
    return [f"--{NETWORK.name}.{name}=1" for name in FROM_DATA if name in required]


def prepared(options: Namespace, stage: str) -> TextData:
    """The data set, to ask it for what the network depends on."""
    data = TextData(**options.clone(with_meta=False))
    data.setup(stage)
    return data


def fit_to_data(options: Namespace, data: TextData) -> list[str]:
    """Give the network what it takes of the data set's classes and word vectors; says what."""
    network = options.model
    passed = accepted(imported(network.class_path), FROM_DATA)
    for name in passed:
        network.init_args[name] = getattr(options if name == "num_classes" else data, name)
    return passed


def main(arguments: Sequence[str]) -> None:
    """Run the subcommand."""
    with cli.ending("--ckpt_path last continues from the last checkpoint"):
        fit_or_judge(arguments)


def fit_or_judge(arguments: Sequence[str]) -> None:
    """Run the subcommand, which a signal may end anywhere."""
    cli.quiet()
    TrainCLI(
        TextClassifier,
        TextData,
        parser_class=Parser,
        seed_everything_default=0,
        parser_kwargs={
            "prog": call().words,
            "exit_on_error": False,
            "allow_abbrev": False,
            **{
                command: {
                    "default_config_files": [str(DEFAULTS)],
                    "exit_on_error": False,
                    "allow_abbrev": False,
                }
                for command in COMMANDS
            },
        },
        trainer_defaults={
            "callbacks": [SettingsOfThisCall(), PredictionWriter(), HyperParameters()]
        },
        save_config_kwargs={"overwrite": True},
        args=list(arguments),
    )
