"""Fit, validate, test or predict with one classifier, quantised or not.

Run:
    python scripts/train.py fit
    python scripts/train.py test --ckpt_path lightning_logs/train/version_0/checkpoints/best.ckpt
    python scripts/train.py fit --config configs/train_imdb.yaml
    python scripts/train.py fit --weights best.ckpt --recipe recipe.yaml   # quantised, from weights
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import cli
from lightning_adls.labs.network import NetworkSection, imported
from lightning_adls.models import FROM_DATA, accepted, check_length, check_outputs
from lightning_adls.transforms import Quantize, summarize

DEFAULTS = Path(__file__).resolve().parent.parent / "configs" / "train.yaml"
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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what the classes do not have."""
        parser.set_defaults({NETWORK.name: {"class_path": NETWORK.class_path}})
        parser.add_argument("--recipe", type=str | None, help="A YAML recipe to quantise by.")
        parser.add_argument(
            "--weights", type=str | None, help="A checkpoint to start from, quantised or not."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or end with one line."""
        arguments = sys.argv[1:] if args is None else args
        with cli.refusing(ArgumentError, UnicodeDecodeError):
            NETWORK.explain(arguments)
            read = NETWORK.read_files(arguments)
            self.config = parser.parse_args([*read, *placeholders(parser, read)])
            network = replace(NETWORK, command=self.config.subcommand)
            network.drop_overruled_defaults(parser, self.config, arguments)

    def _add_instantiators(self) -> None:
        super()._add_instantiators()
        self.parser.add_instantiator(cli.construct, object)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, or end with one line."""
        with cli.refusing(ValueError, MisconfigurationException):  # as it refuses its arguments
            return super().instantiate_trainer(**kwargs)

    def instantiate_classes(self) -> None:
        """Build everything, the data included, before any training starts."""
        options = self.config[self.subcommand]
        given_seed = options.data.seed
        with cli.refusing():
            if given_seed is None:
                options.data.seed = int(options.seed_everything)
            data = prepared(options.data)
            passed = fit_to_data(options, data)
            super().instantiate_classes()
            if "num_classes" not in passed:
                check_outputs(self.model.model, data.num_classes)
            check_length(self.model.model, self.datamodule.max_length)
            if options.recipe is not None:
                Quantize.load(options.recipe)(self.model.model)
            if options.weights is not None:
                self.model.load_weights(options.weights)
        options.data.seed = given_seed  # config.yaml repeats what was asked for
        print(summarize(self.model.model))


def placeholders(parser: LightningArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Values of what the network requires and the data set decides, which is read later."""
    given = parser.parse_args(arguments, defaults=False, _skip_validation=True)
    section = given.get(f"{given.get('subcommand')}.{NETWORK.name}")
    if section is None:
        return []
    parameters = signature(imported(section.class_path)).parameters
    required = [n for n, each in parameters.items() if each.default is each.empty]
    return [f"--{NETWORK.name}.{name}=1" for name in FROM_DATA if name in required]


def prepared(options: Namespace) -> TextData:
    """The data set, to ask it for what the network depends on."""
    data = TextData(**options.clone(with_meta=False))
    data.prepare_data()
    data.setup("fit")
    return data


def fit_to_data(options: Namespace, data: TextData) -> list[str]:
    """Give the network what it takes of the data set's classes and word vectors; says what."""
    options.model.num_classes = data.num_classes
    network = options.model.model
    passed = accepted(imported(network.class_path), FROM_DATA)
    for name in passed:
        network.init_args[name] = getattr(data, name)
    return passed


def main() -> None:
    """Run the subcommand."""
    cli.quiet()
    TrainCLI(
        TextClassifier,
        TextData,
        parser_class=Parser,
        seed_everything_default=0,
        parser_kwargs={
            "exit_on_error": False,
            **{
                command: {"default_config_files": [str(DEFAULTS)], "exit_on_error": False}
                for command in ("fit", "validate", "test", "predict")
            },
        },
        save_config_kwargs={"overwrite": True},
    )


if __name__ == "__main__":
    with cli.ending():
        main()
