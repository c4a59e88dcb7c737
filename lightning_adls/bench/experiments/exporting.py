"""The part `export`: whether files for other engines compute what was trained, and their bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from lightning_adls import export
from lightning_adls.bench.experiments.part import Columns, Table, check_sizes, tables_of
from lightning_adls.bench.results import Results, StoredResults, attempt
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.budget import Budget, batches_of, release
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.errors import MissingFileError
from lightning_adls.export.targets import Target
from lightning_adls.formats import parse
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize, calibrate

COLUMNS: Columns = {
    "target": ("target", ""),
    "largest_difference": ("logits", ".1e"),
    "flips": ("flips", "d"),
    "p_value": ("p", ".2g"),
    "accuracy": ("accuracy", ".4f"),
    "bytes": ("bytes", ",d"),
}
TRAINED = "fake-quantised"
_CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class Exporting:
    """A small BERT that is trained on the built-in reviews, quantised and exported.

    Its dimensions are those of configs/train.yaml, so that a checkpoint of scripts/train.py can be
    taken in the place of the training.

    Args:
        format: Of the inputs and weights of all linear layers; the fraction widths of an
            ``Integer`` are chosen for each tensor on training batches.
        epochs: Of the training in full precision.
        weights: A checkpoint to start from instead.
        rows: Most test rows that all are compared on.
        max_length: Most tokens of a row.

    Raises:
        ValueError: If the format is none, or a number is out of range.
    """

    name: ClassVar[str] = "export"
    extra_keys: ClassVar[tuple[str, ...]] = (
        "rows",  # that were asked
        "largest_difference",  # of a logit to the trained model
        "flips",  # rows that are answered otherwise
        "right_to_wrong",
        "wrong_to_right",
        "p_value",  # of McNemar's exact test
        "accuracy",
        "standard_error",
        "bytes",  # of the files, or of parameters and buffers
    )

    format: str
    epochs: float
    weights: str | None
    rows: int
    max_length: int

    def __post_init__(self) -> None:
        check_sizes(self)
        parse(self.format)
        Budget(self.epochs)

    def check(self) -> None:
        """Refuse weights that are not there.

        Raises:
            FileNotFoundError: If that is so.
        """
        if self.weights is not None and not Path(self.weights).is_file():
            raise MissingFileError(f"export: there is no file {self.weights!r} of weights.")

    def measure(self, results: Results, seed: int) -> None:
        """Train, quantise, export, and ask all for the same rows."""
        torch.manual_seed(seed)
        texts = TextData(max_length=self.max_length, limit_test=self.rows, seed=seed)
        texts.prepare_data()
        texts.setup("fit")
        module = self._trained(texts)
        self._quantize(module, texts)
        texts.setup("test")
        folder = results.folder / "export"

        def verified(make: Callable[[], Target]) -> dict[str, Any]:
            target = make()
            rows = export.verify(module, {"it": target}, texts.test_dataloader()).rows()
            return rows[0] if target is module else rows[1]

        targets: dict[str, Callable[[], Target]] = {
            TRAINED: lambda: module,
            "packed": lambda: _packed(module, folder / "model.safetensors"),
            "ONNX": lambda: export.onnx(module, folder / "model.onnx"),
            "torch.export": lambda: export.program(module, folder / "model.pt2"),
            "compressed-tensors": lambda: export.compressed_tensors(
                module, folder / "compressed_tensors"
            ),
            "lowered": lambda: export.lower(module),
        }
        for target, make in targets.items():
            record = attempt(target, Variant(), "cpu", partial(verified, make))
            results.add(self.name, self.name, [{**record, "target": target}])

    def _trained(self, texts: TextData) -> TextClassifier:
        network = bert(
            vocab_size=texts.vocab_size,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=self.max_length,
        )
        module = TextClassifier(network, num_classes=texts.num_classes, learning_rate=1e-3)
        if self.weights is not None:
            module.load_weights(self.weights)
            return module.eval()
        trainer = Budget(self.epochs, reports=1, accelerator="cpu").trainer(batches_of(texts))
        trainer.fit(module, datamodule=texts)
        release(trainer)
        return module.eval()

    def _quantize(self, module: TextClassifier, texts: TextData) -> None:
        recipe = Quantize({"*": {"input": self.format, "weight": self.format}})
        observed = texts.calibration_batches(_CALIBRATION_BATCHES)
        chosen = calibrate(module.model, recipe, observed, forward=module.logits)
        chosen(module.model)
        if parse(self.format).learns_scales:
            module.train()
            with torch.no_grad():
                module.logits(observed[0])  # which fits the scales
        module.eval()

    def tables(self, results: StoredResults) -> Iterator[Table]:
        """One, with a row for each target."""
        return tables_of(results, self.name, {self.name: COLUMNS})

    def explain(self, results: StoredResults) -> str:
        """Whether what was exported is what was trained."""
        found = [record for record in results.of(self.name) if record["target"] != TRAINED]
        if not found:
            return ""
        rows = found[0]["rows"]
        other = [record for record in found if record["flips"]]
        if not other:
            names = ", ".join(record["target"] for record in found)
            largest = max(record["largest_difference"] for record in found)
            how = f"no logit differs by more than {largest:.1e}" if largest else "so are all logits"
            return f"All {rows:,} answers of {names} are those of the fake-quantised model; {how}."
        return " ".join(
            f"{record['target']} answers {record['flips']} of {rows:,} rows otherwise (McNemar "
            f"p={record['p_value']:.2g})."
            for record in other
        )

    def draw(self, results: StoredResults) -> None:
        """Bars of the bytes."""
        groups = {r["target"]: {"MB": r["bytes"] / 1e6} for r in results.of(self.name)}
        results.bars("export bytes", f"A BERT in {self.format}, exported", groups, "MB")


def _packed(module: TextClassifier, path: Path) -> Path:
    export.save(module, path)
    return path
