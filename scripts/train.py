"""Fit, validate, test or predict with one classifier, quantised or not.

Run:
    python scripts/train.py fit
    python scripts/train.py test --ckpt_path lightning_logs/train/version_0/checkpoints/best.ckpt
    python scripts/train.py fit --config configs/train_imdb.yaml
    python scripts/train.py fit --weights best.ckpt --recipe recipe.yaml   # quantised, from weights
"""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import cli
from lightning_adls.models import check_length
from lightning_adls.transforms import Quantize, summarize

DEFAULTS = Path(__file__).resolve().parent.parent / "configs" / "train.yaml"


class TrainCLI(LightningCLI):
    """Lightning's command line, with the model fitted to the data and errors in one line."""

    model: TextClassifier
    datamodule: TextData

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what the classes do not have."""
        parser.add_argument("--recipe", type=str | None, help="A YAML recipe to quantise by.")
        parser.add_argument(
            "--weights", type=str | None, help="A checkpoint to start from, quantised or not."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or end with one line."""
        with cli.refusing(ArgumentError):
            super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Build everything, the data included, before any training starts."""
        with cli.refusing(ArgumentError):
            options = self.config[self.subcommand]
            take_from_data(options)
            super().instantiate_classes()
            check_length(self.model.model, self.datamodule.max_length)
            if options.recipe is not None:
                Quantize.load(options.recipe)(self.model.model)
            if options.weights is not None:
                self.model.load_weights(options.weights)
        print(summarize(self.model.model))


def take_from_data(options: Namespace) -> None:
    """Give the model as many classes and word vectors as the data set has."""
    data = TextData(**options.data.clone(with_meta=False))
    data.prepare_data()
    data.setup("fit")
    options.model.num_classes = data.num_classes
    options.model.model.init_args.num_classes = data.num_classes
    options.model.model.init_args.vocab_size = data.vocab_size


def main() -> None:
    """Run the subcommand."""
    cli.quiet()
    TrainCLI(
        TextClassifier,
        TextData,
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
