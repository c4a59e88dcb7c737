"""Lab 1: quantise a BERT at many widths, then prune the best of them to many sparsities.

Widths: fixed point, with post-training quantisation (PTQ) and with quantisation-aware training
(QAT) from the same weights. Sparsities: the best quantised model, pruned by several methods and
trained again. Run:

    python scripts/lab1_compression.py
    python scripts/lab1_compression.py --sparsities '[0.5, 0.9]' --structured '[0.25, 0.5]'
    python scripts/lab1_compression.py --config configs/lab1_imdb.yaml --weights best.ckpt

The same command continues an interrupted run and repeats nothing that is done; longer lists of
widths, sparsities and methods add to it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from lightning_adls import report
from lightning_adls.budget import Budget
from lightning_adls.callbacks import Cubic, Pruning
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import InputError
from lightning_adls.formats import Integer, LearnedInteger
from lightning_adls.labs import cli, runs
from lightning_adls.labs.tables import table
from lightning_adls.ledger import Ledger, Row, open_ledger
from lightning_adls.models import FROM_DATA, NetworkFactory, check_length
from lightning_adls.transforms import Prune, PruneStructured, Quantize, calibrate, costs

HERE = Path(__file__).resolve()
LOGS = Path("lightning_logs", "lab1")

# Arguments in which calls of one run may differ: each step is stored under what it depends on.
PASSING = {
    *("run", "widths", "frac_widths", "observer", "calibration_batches"),
    *("sparsities", "methods", "schedules", "structured", "tolerance"),
}
METHODS: dict[str, Literal["l1", "random"]] = {"l1-norm": "l1", "random": "random"}
WIDEST_LEARNED = 16
COLUMNS = (
    *("accuracy", "accuracy_untrained", "parameters", "size_mb", "bits_per_weight", "sparsity"),
    *("speedup", "seconds"),
)

FracWidth = Literal["half", "calibrated", "learned"]
Observer = Literal["minmax", "percentile", "mse"]
Method = Literal["random", "l1-norm"]
Schedule = Literal["one_shot", "cubic"]
console = Console()


@dataclass
class Lab:
    """What every step needs."""

    network: nn.Module
    classifier: Callable[..., TextClassifier]
    texts: TextData
    qat: Budget
    folder: Path
    ledger: Ledger
    seed: int

    def build(self, recipe: Quantize | None = None) -> TextClassifier:
        """A fresh copy of the network with its starting weights, quantised."""
        transforms = [] if recipe is None else [recipe]
        return self.classifier(
            copy.deepcopy(self.network), transforms=transforms, num_classes=self.texts.num_classes
        )

    def load(self, step: str) -> TextClassifier:
        """The model that a step left behind."""
        row = self.ledger.rows[step]
        module = self.build(Quantize(row["recipe"]) if row["recipe"] else None)
        if "checkpoint" in row:
            module.load_weights(self.folder / row["checkpoint"])
        return module

    def step(self, name: str, work: Callable[[], Row]) -> Row:
        """Do a step, once per run, and say what it found."""
        known = name in self.ledger.rows
        row = self.ledger.once(name, work)
        if not known:
            console.print(f"{name:<48} {row['accuracy']:.4f}", highlight=False)
            self.write_rows()
        return row

    def write_rows(self) -> None:
        """Write ``results.csv``: a row for each model so far."""
        rows = [
            {"step": step, **{column: row.get(column) for column in COLUMNS}}
            for step, row in self.ledger.rows.items()
            if not step.startswith("test/")
        ]
        report.write_csv(self.folder / "results.csv", rows)

    def judge(self, module: TextClassifier, recipe: Quantize | None = None) -> Row:
        """Validate a model as it is."""
        accuracy = runs.validate(module, self.texts, self.qat)
        return {"accuracy": accuracy, **self._about(module, recipe)}

    def train(
        self,
        step: str,
        module: TextClassifier,
        budget: Budget,
        recipe: Quantize | None,
        *callbacks: L.Callback,
    ) -> Row:
        """Train a model, validate it and keep its weights."""
        found = runs.train(
            module, self.texts, budget, self.folder / "trials", step, callbacks, seed=self.seed
        )
        path = Path("checkpoints", f"{step.replace('/', '_')}.ckpt")
        runs.save_weights(module, self.folder / path)
        return {**found, **self._about(module, recipe), "checkpoint": str(path)}

    def calibrated(self, recipe: Quantize, observer: Observer, batches: int) -> Quantize:
        """The recipe with a fraction width for each tensor, chosen on training batches."""
        module = self.build()
        observed = islice(self.texts.train_dataloader(), batches)
        return calibrate(module.model, recipe, observed, forward=module, observer=observer)

    def _about(self, module: TextClassifier, recipe: Quantize | None) -> Row:
        return {**costs(module.model), "recipe": None if recipe is None else recipe.to_dict()}


def main(
    config_yaml: str,
    data: Callable[..., TextData],
    model: Callable[..., nn.Module],
    classifier: Callable[..., TextClassifier],
    widths: list[int],
    frac_widths: list[FracWidth],
    sparsities: list[float],
    methods: list[Method],
    schedules: list[Schedule],
    qat: Budget,
    retrain: Budget,
    finetune: Budget | None = None,
    weights: str | None = None,
    observer: Observer = "mse",
    calibration_batches: int = 8,
    scope: Literal["local", "global"] = "local",
    activation_sparsity: float = 0.0,
    structured: list[float] | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    run: str = "default",
) -> None:
    """Quantise a BERT at many widths, then prune the best of them to many sparsities.

    Args:
        config_yaml: All arguments, as the run's ``config.yaml`` keeps them.
        data: The data set.
        model: The BERT: a checkpoint or dimensions.
        classifier: How it is trained.
        widths: Total bits of the fixed-point numbers, 2 to 32.
        frac_widths: How the fraction width is chosen: ``half`` of the width, ``calibrated`` for
            each tensor on training batches, or ``learned``: a step size that trains (LSQ, for
            widths up to 16).
        sparsities: Shares of the weights to prune, above 0 and below 1.
        methods: What is pruned: ``l1-norm`` the smallest weights, ``random`` any.
        schedules: ``one_shot`` before training again, or ``cubic``, in steps during it.
        qat: Budget of each quantisation-aware training.
        retrain: Budget of training after (or while) pruning.
        finetune: Budget of the fine-tune in full precision that everything starts from.
        weights: A checkpoint to start from instead, written by scripts/train.py.
        observer: How ``calibrated`` chooses: by ``minmax``, ``percentile`` or ``mse``.
        calibration_batches: Training batches that are observed.
        scope: Whether each layer reaches the sparsity (``local``) or all together (``global``).
        activation_sparsity: Share of each layer's input features that is dropped after pruning.
        structured: Shares of attention heads and feed-forward neurons to remove, besides.
        tolerance: Loss of validation accuracy within which the sparsest model is chosen to be
            tested.
        seed: Of everything.
        run: Name of the folder in lightning_logs/lab1.
    """
    folder = LOGS / run
    with ExitStack() as stack:
        with cli.refusing(MisconfigurationException):
            check_arguments(widths, sparsities, structured or [], calibration_batches, tolerance)
            Prune(0.5, scope=scope, activation_sparsity=activation_sparsity)
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
            start = classifier(copy.deepcopy(network), num_classes=texts.num_classes)
            with cli.refusing(ValueError):  # of Lightning, which says it so
                qat.trainer(1)
            if weights is not None:
                start.load_weights(weights)
            elif finetune is None:
                raise InputError("lab1: there is nothing to start from; give finetune or weights.")
            folder.mkdir(parents=True, exist_ok=True)
            settings = runs.settings_of(config_yaml, passing=PASSING, weights=weights)
            ledger = stack.enter_context(open_ledger(folder / "ledger.json", settings))
        (folder / "config.yaml").write_text(config_yaml, encoding="utf-8")
        if weights is None and finetune is not None:
            runs.fine_tune(start, texts, finetune, folder, seed)
        network.load_state_dict(start.model.state_dict())
        lab = Lab(network, classifier, texts, qat, folder, ledger, seed)
        quantise(lab, widths, frac_widths, observer, calibration_batches)
        best = best_quantised(lab)
        for method, schedule, sparsity in product(methods, schedules, sparsities):
            how = Prune(
                sparsity, METHODS[method], scope, activation_sparsity=activation_sparsity, seed=seed
            )
            prune(lab, best, method, schedule, how, retrain)
            drop_checkpoints(lab, [best, sparsest_within(lab, best, tolerance)])
        for share in structured or []:
            remove(lab, best, share, retrain)
        sparse = sparsest_within(lab, best, tolerance)
        drop_checkpoints(lab, [best, sparse])
        chosen = {"float32": "float32/start", "quantised": best, "sparse": sparse}
        results = write_results(lab, {name: step for name, step in chosen.items() if step})
        draw(lab, best)
    show(results, folder)


def check_arguments(
    widths: Sequence[int],
    sparsities: Sequence[float],
    structured: Sequence[float],
    calibration_batches: int,
    tolerance: float,
) -> None:
    """Refuse numbers out of range."""
    for width in widths:
        Integer(width, width // 2)
        LearnedInteger(min(width, WIDEST_LEARNED))
    for name, shares in (("sparsities", sparsities), ("structured", structured)):
        if wrong := [share for share in shares if not 0 < share < 1]:
            raise InputError(f"lab1: {name}: {wrong[0]} is not between 0 and 1.")
    if not widths:
        raise InputError("lab1: widths is empty; give at least one, such as 8.")
    if calibration_batches < 1:
        raise InputError(f"lab1: calibration_batches={calibration_batches} is below 1.")
    if not 0 <= tolerance < 1:
        raise InputError(f"lab1: tolerance={tolerance} is not in 0 <= tolerance < 1.")


def quantise(
    lab: Lab,
    widths: Sequence[int],
    frac_widths: Sequence[FracWidth],
    observer: Observer,
    batches: int,
) -> None:
    """Part 1: each width, without training and with it; float32 as the yardstick."""
    lab.step("float32/start", lambda: lab.judge(lab.build()))
    lab.step("float32/trained", lambda: lab.train("float32/trained", lab.build(), lab.qat, None))
    for frac_width, width in product(frac_widths, widths):
        if frac_width == "learned" and width > WIDEST_LEARNED:
            continue
        name = f"{observer}-{batches}" if frac_width == "calibrated" else frac_width
        quantise_one(lab, f"{name}/{width}", frac_width, width, observer, batches)
        drop_checkpoints(lab, [best_quantised(lab)])


def quantise_one(
    lab: Lab, name: str, frac_width: FracWidth, width: int, observer: Observer, batches: int
) -> None:
    """One width, without training and with it."""

    def recipe() -> Quantize:
        if frac_width == "learned":
            # LSQ; its paper leaves biases as they are.
            learned = str(LearnedInteger(width))
            return Quantize({"*": {"input": learned, "weight": learned}})
        fixed = Quantize({"*": str(Integer(width, width // 2))})
        return fixed if frac_width == "half" else lab.calibrated(fixed, observer, batches)

    def ptq() -> Row:
        return lab.judge(lab.build(chosen := recipe()), chosen)

    def qat() -> Row:
        return lab.train(f"qat/{name}", lab.build(chosen := recipe()), lab.qat, chosen)

    if frac_width != "learned":  # a step size that nothing has learned is no result
        lab.step(f"ptq/{name}", ptq)
    lab.step(f"qat/{name}", qat)


def best_quantised(lab: Lab) -> str:
    """The step of part 1 with the highest accuracy; of equals, the one with the fewest bits."""
    found = {k: row for k, row in lab.ledger.rows.items() if k.startswith(("ptq/", "qat/"))}
    return max(found, key=lambda k: (found[k]["accuracy"], -found[k]["bits_per_weight"]))


def prune(lab: Lab, best: str, method: Method, schedule: Schedule, how: Prune, to: Budget) -> None:
    """Part 2: prune the best quantised model and train it again."""
    step = f"pruned/{method}/{schedule}/{how.sparsity:g}/{best}"

    def work() -> Row:
        module = lab.load(best)
        recipe = Quantize(lab.ledger.rows[best]["recipe"])
        if schedule == "cubic":
            replace(how, sparsity=0.0)(module.model)  # the input's features, no weight yet
            gradual = Pruning(Cubic(how.sparsity), how.method, how.scope)
            return lab.train(step, module, to, recipe, gradual)
        how(module.model)
        untrained = runs.validate(module, lab.texts, to)
        return {**lab.train(step, module, to, recipe), "accuracy_untrained": untrained}

    lab.step(step, work)


def remove(lab: Lab, best: str, share: float, budget: Budget) -> None:
    """Remove attention heads and neurons, so that the model really is smaller and faster."""
    step = f"removed/{share:g}/{best}"

    def work() -> Row:
        whole, module = lab.load(best), lab.load(best)
        PruneStructured(heads=share, neurons=share)(module.model)
        untrained = runs.validate(module, lab.texts, budget)
        row = lab.train(step, module, budget, Quantize(lab.ledger.rows[best]["recipe"]))
        faster = speedup(whole, module, lab.texts)
        return {**row, "accuracy_untrained": untrained, "speedup": faster}

    lab.step(step, work)


def speedup(before: TextClassifier, after: TextClassifier, texts: TextData) -> float:
    """How many times faster ``after`` is on validation batches: the two run in turn, medians."""
    batches = list(islice(texts.val_dataloader(), 4))
    modules = (before.cpu().eval(), after.cpu().eval())
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for turn in range(12):
            for module, times in zip(modules, seconds, strict=True):
                started = perf_counter()
                for batch in batches:
                    module(batch)
                if turn > 1:  # the first ones warm up
                    times.append(perf_counter() - started)
    return round(median(seconds[0]) / median(seconds[1]), 3)


def pruned_from(lab: Lab, best: str) -> dict[tuple[str, str, float], Row]:
    """What pruning one model found, by method, schedule and sparsity."""
    found = {}
    for name, row in lab.ledger.rows.items():
        what, *rest = name.split("/", 4)
        if what == "pruned" and rest[3] == best:
            found[rest[0], rest[1], float(rest[2])] = {**row, "step": name}
    return found


def sparsest_within(lab: Lab, best: str, tolerance: float) -> str | None:
    """The sparsest pruned model that lost no more than ``tolerance``; None if there is none."""
    least = lab.ledger.rows[best]["accuracy"] - tolerance
    good = [row for row in pruned_from(lab, best).values() if row["accuracy"] >= least]
    row = max(good, key=lambda row: (row["sparsity"], row["accuracy"]), default=None)
    return None if row is None else str(row["step"])


def drop_checkpoints(lab: Lab, kept: Sequence[str | None]) -> None:
    """Remove the weights that no later step needs."""
    names = {lab.ledger.rows[name].get("checkpoint") for name in kept if name is not None}
    for path in lab.folder.glob("checkpoints/*.ckpt"):
        if str(path.relative_to(lab.folder)) not in names:
            path.unlink()


def write_results(lab: Lab, chosen: Mapping[str, str]) -> dict[str, Row]:
    """Test the chosen models, once each, and write what they are."""
    results = {}
    for name, step in chosen.items():

        def test(step: str = step) -> Row:
            return {"accuracy": runs.test(lab.load(step), lab.texts, lab.qat)}

        tested = lab.step(f"test/{step}", test)
        row = lab.ledger.rows[step]
        results[name] = {"step": step, **row, "test_accuracy": tested["accuracy"]}
        if row["recipe"]:
            Quantize(row["recipe"]).save(lab.folder / f"{name}_recipe.yaml")
    report.write_json(lab.folder / "summary.json", results)
    lab.write_rows()
    return results


def draw(lab: Lab, best: str) -> None:
    """The lab's two figures, as PNG files and as TensorBoard curves."""
    rows = lab.ledger.rows
    widths: dict[str, dict[float, float]] = {}
    for name, row in rows.items():
        if name.startswith(("ptq/", "qat/")):
            how, frac_width, width = name.split("/")
            observer, _, batches = frac_width.partition("-")
            chosen = f"calibrated by {observer}" if batches else frac_width
            widths.setdefault(f"{how.upper()}, {chosen}", {})[int(width)] = row["accuracy"]
    sparsities: dict[str, dict[float, float]] = {}
    for (method, schedule, sparsity), row in pruned_from(lab, best).items():
        sparsities.setdefault(f"{method}, {schedule}", {})[sparsity] = row["accuracy"]
        if schedule == "one_shot":
            untrained = sparsities.setdefault(f"{method}, not trained again", {})
            untrained[sparsity] = row["accuracy_untrained"]
    float32 = {
        "float32": rows["float32/start"]["accuracy"],
        "float32, trained as long": rows["float32/trained"]["accuracy"],
    }
    unpruned = {f"unpruned ({best})": rows[best]["accuracy"]}
    for file, found, levels, name, label in (
        ("widths", widths, float32, "width", "width of the fixed-point numbers in bits"),
        ("sparsities", sparsities, unpruned, "sparsity", "sparsity"),
    ):
        curves = {name: sorted(points.items()) for name, points in found.items()}
        report.draw_lines(
            lab.folder / f"{file}.png",
            curves,
            levels=levels,
            title=f"Validation accuracy by {name}",
            x_label=label,
            y_label="validation accuracy",
        )
        percent = {
            name: [(x if file == "widths" else 100 * x, y) for x, y in curve]
            for name, curve in curves.items()
        }
        report.log_curves(lab.folder / "curves", f"accuracy/by_{name}", percent)


def show(results: Mapping[str, Row], folder: Path) -> None:
    """Print the table of the chosen models."""
    columns = {
        "name": ("model", ""),
        "accuracy": ("val acc.", ".4f"),
        "test_accuracy": ("test acc.", ".4f"),
        "bits_per_weight": ("bits/w", ".2f"),
        "sparsity": ("sparsity", ".2f"),
        "size_mb": ("MB", ".2f"),
    }
    rows = [{"name": name, **row} for name, row in results.items()]
    console.print(table("Chosen on the validation split, tested once", rows, columns))
    console.print(f"All models, figures and recipes: {folder}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(
        main,
        HERE.parent.parent / "configs" / f"{HERE.stem}.yaml",
        {
            "data": (TextData, set()),
            "model": (NetworkFactory, {*FROM_DATA}),
            "classifier": (TextClassifier, {"model", "transforms", "num_classes"}),
        },
    )
