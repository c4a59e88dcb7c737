"""Lab 0: fine-tune a BERT in full, then by low-rank adapters (LoRA) from the same start.

Prints what it runs on and what the model consists of, trains both ways, merges the adapters into
the weights and shows that the logits stay the same. Run:

    python scripts/lab0_finetune.py
    python scripts/lab0_finetune.py --lora.rank 4 --lora.layers '["*.query"]' --run rank4
    python scripts/lab0_finetune.py --config configs/lab0_imdb.yaml --run imdb

The same command continues an interrupted run and repeats nothing that is done.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import Tensor, nn

from lightning_adls import report
from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs import cli, runs
from lightning_adls.labs.environment import environment
from lightning_adls.labs.tables import table
from lightning_adls.ledger import Row, open_ledger
from lightning_adls.models import FROM_DATA, NetworkFactory, check_length
from lightning_adls.transforms.flops import flops_per_sample
from lightning_adls.transforms.lora import LoRA, freeze, merge_lora, parameter_counts

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab0")
COLUMNS = {
    "model": ("model", ""),
    "val_accuracy": ("val acc.", ".4f"),
    "test_accuracy": ("test acc.", ".4f"),
    "trainable": ("trainable", ",d"),
    "total": ("parameters", ",d"),
    "seconds": ("s", ".1f"),
}
# Largest difference of a logit over the largest logit. Merging changes only the order of float32
# sums, by about 1e-6; an adapter that is lost or scaled wrongly changes the second digit.
TOLERANCE = 1e-4
console = Console()


def main(
    config_yaml: str,
    data: Callable[..., TextData],
    model: Callable[..., nn.Module],
    classifier: Callable[..., TextClassifier],
    lora_classifier: Callable[..., TextClassifier],
    lora: LoRA,
    budget: Budget,
    lora_budget: Budget,
    frozen: list[str],
    pretraining: Budget | None = None,
    seed: int = 0,
    run: str = "default",
) -> None:
    """Fine-tune a BERT in full, then by low-rank adapters (LoRA) from the same start.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The BERT: a checkpoint or dimensions.
        classifier: How it is trained in full.
        lora_classifier: How the adapters are trained; they take a higher learning rate.
        lora: The adapters.
        budget: What the full fine-tune may spend.
        lora_budget: What the training of the adapters may spend.
        frozen: Shell patterns of parameters that the full fine-tune leaves as they are, such as
            ``bert.embeddings.*``. (With adapters the whole base is frozen.)
        pretraining: Budget of a training, by ``classifier``, of the model that both start from.
            Adapters need a base that has learned something, which random weights have not.
        seed: Of everything.
        run: Name of the folder in lightning_logs/lab0.
    """
    folder = LOGS / run
    with ExitStack() as stack:
        with cli.refusing(MisconfigurationException):
            L.seed_everything(seed, verbose=False)
            texts = data(seed=seed)
            texts.prepare_data()
            texts.setup("fit")
            network = model(
                num_classes=texts.num_classes,
                vocab_size=texts.vocab_size,
                pad_token_id=texts.pad_token_id,
            )
            check_length(network, texts.max_length)
            base = classifier(network, num_classes=texts.num_classes)
            build = partial(build_both, classifier, lora_classifier, lora, frozen, seed)
            plain, _ = build(network, texts.num_classes)  # refuses wrong patterns before training
            with cli.refusing(ValueError):  # of Lightning, which says it so
                for each in (budget, lora_budget, pretraining or budget):
                    each.trainer(1)
            settings = runs.settings_of(config_yaml, passing={"run"})
            folder.mkdir(parents=True, exist_ok=True)
            ledger = stack.enter_context(open_ledger(folder / "ledger.json", settings))
        (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
        summary = describe(plain.model, texts.max_length)
        if pretraining is not None:
            runs.fine_tune(base, texts, pretraining, folder, seed)
        plain, adapted = build(network, texts.num_classes)
        steps: dict[str, Callable[[], Row]] = {
            "start": lambda: {"val_accuracy": runs.validate(plain, texts, budget)},
            "full": partial(tune, plain, texts, budget, folder / "full", seed),
            "lora": partial(tune, adapted, texts, lora_budget, folder / "lora", seed),
            "merged": partial(merge, adapted, plain, texts, lora_budget, folder),
            # The test split is read last, for the models that are done.
            "full test": partial(test, plain, texts, budget, folder / "full.ckpt"),
            "merged test": partial(test, plain, texts, lora_budget, folder / "merged.ckpt"),
        }
        found = {}
        for name, work in steps.items():
            console.print(f"{name}: {'done already' if name in ledger.rows else '...'}")
            found[name] = ledger.once(name, work)
            write(found, summary, folder)
    show(found, folder)


def build_both(
    classifier: Callable[..., TextClassifier],
    lora_classifier: Callable[..., TextClassifier],
    lora: LoRA,
    frozen: list[str],
    seed: int,
    network: nn.Module,
    num_classes: int,
) -> tuple[TextClassifier, TextClassifier]:
    """Copies of the network: one to train in full, one with adapters."""
    plain = classifier(copy.deepcopy(network), num_classes=num_classes)
    freeze(plain.model, frozen)
    L.seed_everything(seed, verbose=False)  # the adapters are drawn anew in a continued run
    adapted = lora_classifier(copy.deepcopy(network), transforms=[lora], num_classes=num_classes)
    return plain, adapted


def describe(model: nn.Module, tokens: int) -> dict[str, dict[str, str]]:
    """Print and return the environment and what the model consists of."""
    counts = parameter_counts(model)
    flops = flops_per_sample(model, tokens)
    summary = {
        "environment": environment(),
        "model": {
            **parts(model),
            "all": f"{counts.total:,} parameters, {counts.trainable:,} of them to be trained",
            "forward pass": f"{flops / 1e6:,.1f} MFLOPs for {tokens} tokens (multiply-add = 2)",
        },
    }
    for title, lines in summary.items():
        console.print(f"\n[bold]{title.capitalize()}")
        for name, value in lines.items():
            console.print(f"  {name:<20} {value}", soft_wrap=True, highlight=False)
    return summary


def parts(model: nn.Module) -> dict[str, str]:
    """Layers and parameters of each part of a model."""
    layers: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for name, module in model.named_modules():
        if own := sum(p.numel() for p in module.parameters(recurse=False)):
            part = ".".join(name.split(".")[:2])
            layers[part] += 1
            parameters[part] += own
    return {
        part: f"{parameters[part]:,} parameters in {n} {'layer' if n == 1 else 'layers'}"
        for part, n in layers.items()
    }


class ValidationCurve(L.Callback):
    """Keeps the accuracy of each validation by the number of steps."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the accuracy that was just logged."""
        self.points.append((trainer.global_step, float(trainer.callback_metrics["val/accuracy"])))


def tune(module: TextClassifier, texts: TextData, budget: Budget, logs: Path, seed: int) -> Row:
    """Train and keep the weights beside the TensorBoard folder ``logs``."""
    curve = ValidationCurve()
    trained = runs.train(
        module, texts, budget, logs.parent, logs.name, [curve], progress_bar=True, seed=seed
    )
    runs.save_weights(module, logs.with_suffix(".ckpt"))
    counts = parameter_counts(module)
    return {
        "val_accuracy": trained["accuracy"],
        "seconds": trained["seconds"],
        **counts._asdict(),
        "curve": curve.points,
    }


def merge(
    adapted: TextClassifier, plain: TextClassifier, texts: TextData, budget: Budget, folder: Path
) -> Row:
    """Merge the trained adapters, compare the logits, and judge what a plain model loads.

    Raises:
        ArithmeticError: If the logits differ by more than rounding.
    """
    adapted.load_weights(folder / "lora.ckpt")
    before = logits(adapted, texts)
    started = perf_counter()
    merge_lora(adapted.model)
    seconds = perf_counter() - started
    difference = float((logits(adapted, texts) - before).abs().max())
    largest = float(before.abs().max())
    if not difference <= TOLERANCE * largest:
        raise ArithmeticError(
            f"lab0: merging changed a logit by {difference:.2e}, more than {TOLERANCE:.0e} of the "
            f"largest, {largest:.2f}."
        )
    console.print(f"Largest difference of a logit: {difference:.1e}; largest logit {largest:.2f}")
    runs.save_weights(adapted, folder / "merged.ckpt")
    plain.load_weights(folder / "merged.ckpt")
    return {
        "val_accuracy": runs.validate(plain, texts, budget),
        "seconds": round(seconds, 3),
        "trainable": 0,
        "total": parameter_counts(plain).total,
        "largest_difference": difference,
        "largest_logit": largest,
    }


def logits(module: TextClassifier, texts: TextData) -> Tensor:
    """Of the validation split in float32, ``(samples, classes)``."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in texts.val_dataloader()])


def test(module: TextClassifier, texts: TextData, budget: Budget, weights: Path) -> Row:
    """Read the test split with some weights."""
    module.load_weights(weights)
    return {"test_accuracy": runs.test(module, texts, budget)}


def rows_of(found: Mapping[str, Row]) -> list[Row]:
    """One row for each model, its test accuracy with it."""
    return [
        {"model": name, **row, **found.get(f"{name} test", {})}
        for name, row in found.items()
        if not name.endswith(" test")
    ]


def write(found: Mapping[str, Row], summary: Mapping[str, object], folder: Path) -> None:
    """Write everything found so far: table, summary and curves."""
    rows = rows_of(found)
    report.write_csv(folder / "results.csv", [{k: row.get(k) for k in COLUMNS} for row in rows])
    report.write_json(folder / "summary.json", {**summary, "results": rows})
    start = (0, found["start"]["val_accuracy"])
    curves = {row["model"]: [start, *row["curve"]] for row in rows if "curve" in row}
    if curves:
        report.draw_lines(
            folder / "curves.png",
            curves,
            levels={},
            title="Full fine-tuning and LoRA: validation accuracy",
            x_label="training steps",
            y_label="validation accuracy",
        )


def show(found: Mapping[str, Row], folder: Path) -> None:
    """Print the table of results."""
    console.print(table("Fine-tuning", rows_of(found), COLUMNS))
    console.print(f"Figure, table and checkpoints: {folder}", soft_wrap=True)


if __name__ == "__main__":
    given = {"model", "transforms", "num_classes"}
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        {
            "data": (TextData, set()),
            "model": (NetworkFactory, {*FROM_DATA}),
            "classifier": (TextClassifier, given),
            "lora_classifier": (TextClassifier, given),
        },
    )
