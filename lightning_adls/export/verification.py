"""Whether what was exported is the model that was trained: logits, answers and accuracies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.export.targets import (
    Batch,
    Logits,
    Target,
    check,
    of_module,
    open_target,
)
from lightning_adls.significance import Flips, flips, paired, standard_error
from lightning_adls.transforms import memory


@dataclass(frozen=True)
class Compared:
    """One file, module or function beside the model.

    Args:
        name: Of what is compared.
        rows: Behind the numbers.
        largest_difference: Of a logit, over all rows and classes.
        flips: Rows that are answered otherwise than by the model.
        p_value: Of McNemar's exact test, of both accuracies being the same.
        accuracy: 0 to 1.
        bytes: Of the files, or of a module's parameters and buffers; None for other functions.
    """

    name: str
    rows: int
    largest_difference: float
    flips: Flips
    p_value: float
    accuracy: float
    bytes: int | None

    @property
    def standard_error(self) -> float:
        """Of the accuracy."""
        return standard_error(self.accuracy, self.rows)

    def row(self) -> dict[str, Any]:
        """All of it, for tables and CSV files."""
        return {
            "target": self.name,
            "rows": self.rows,
            "largest_difference": self.largest_difference,
            "flips": self.flips.changed,
            "right_to_wrong": self.flips.right_to_wrong,
            "wrong_to_right": self.flips.wrong_to_right,
            "p_value": self.p_value,
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Args:
        name: Of the model.
        row_count: How many rows it was asked.
        accuracy: Of the model, 0 to 1.
        bytes: Of its parameters and buffers; None for a function.
        compared: What it was compared with, by name.
    """

    name: str
    row_count: int
    accuracy: float
    bytes: int | None
    compared: Mapping[str, Compared]

    @property
    def standard_error(self) -> float:
        """Of the model's accuracy."""
        return standard_error(self.accuracy, self.row_count)

    def rows(self) -> list[dict[str, Any]]:
        """A row for the model and for each of the others, for tables and CSV files.

        The model's has None for what needs two: ``largest_difference``, ``flips``,
        ``right_to_wrong``, ``wrong_to_right`` and ``p_value``.
        """
        of_two = ("largest_difference", "flips", "right_to_wrong", "wrong_to_right", "p_value")
        model: dict[str, Any] = {
            "target": self.name,
            "rows": self.row_count,
            **dict.fromkeys(of_two),
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "bytes": self.bytes,
        }
        return [model, *(each.row() for each in self.compared.values())]

    def __str__(self) -> str:
        error = self.standard_error
        lines = [f"{self.name}: accuracy {self.accuracy:.4f} +- {error:.4f} of {self.row_count}"]
        lines += [
            f"{each.name}: accuracy {each.accuracy:.4f} +- {each.standard_error:.4f}, largest "
            f"difference {each.largest_difference:.3g}, {each.flips.changed} flips "
            f"(p={each.p_value:.2g})"
            for each in self.compared.values()
        ]
        return "\n".join(lines)


def verify(
    model: nn.Module,
    against: Mapping[str, Target],
    data: Iterable[Batch],
    *,
    name: str = "model",
) -> Verification:
    """Compare a model with what was exported from it, on the same rows.

    All are asked batch by batch, in eval mode, without gradients; of their logits only the largest
    difference is kept, and of each row the classes.

    Args:
        model: A network or a :class:`TextClassifier`; its mode stays as it is.
        against: By name, what it is compared with: the path of a packed file (which stays packed),
            of an ONNX file (on the CPU, by ONNX Runtime), of a ``.pt2`` of ``torch.export``, or of
            a folder that Transformers loads, such as one in compressed-tensors; a module; or a
            function that maps a batch without ``labels`` to logits. A packed file that does not
            say how to make its network is loaded into a copy of ``model``. Torch may unpickle
            parts of a ``.pt2``: give only one that you trust.
        data: Batches, such as a dataloader: mappings of tensors with ``labels``, int64,
            ``(batch,)``. Each gets the entries that it takes by name.
        name: Of the model, in the rows.

    Returns:
        For each, the largest difference of a logit, flips with McNemar's exact test, accuracy and
        bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package that runs a file is not installed.
        ValueError: If there is nothing to compare or there are no rows, a file cannot be opened,
            or logits are not ``(batch, classes)``, of other numbers of classes, or not finite.

    Example:
        >>> from lightning_adls import Quantize
        >>> model = nn.Sequential(nn.Linear(8, 2))
        >>> batch = {"input": torch.randn(16, 8), "labels": torch.ones(16, dtype=torch.int64)}
        >>> Quantize({"*": "MXInt(width=8)"})(model)
        >>> found = verify(model, {"itself": model}, [batch]).compared["itself"]
        >>> found.largest_difference, found.flips.changed, found.rows
        (0.0, 0, 16)
    """
    if not against:
        raise InputValueError("verify: against is empty; give at least one file or module.")
    for key, target in against.items():
        check(f"verify: {key!r}", target)
    batches = iter(data)
    if (first := next(batches, None)) is None:
        raise InputValueError("verify: data has no batches; give at least one.")
    _labels_of(first)
    others = [target for target in against.values() if isinstance(target, nn.Module)]
    with _evaluating([model, *others]), torch.no_grad():
        asked = _Asked(f"verify: {name!r}", of_module(f"verify: {name!r}", model))
        opened = {key: open_target(f"verify: {key!r}", t, model) for key, t in against.items()}
        compared = {key: _Asked(f"verify: {key!r}", one.logits) for key, one in opened.items()}
        labels: list[int] = []
        for batch in chain([first], batches):
            known = _labels_of(batch)
            expected = asked.answer(batch)
            for each in compared.values():
                each.answer(batch, expected)
            _check_labels(known, expected.shape[1])
            labels += known
    if not labels:
        raise InputValueError("verify: data has no rows; give at least one.")
    return Verification(
        name,
        len(labels),
        asked.accuracy(labels),
        sum(memory(model).values()),
        {key: each.beside(asked, key, opened[key].bytes, labels) for key, each in compared.items()},
    )


class _Asked:
    """What one of the models says, batch by batch.

    Args:
        who: Begins the sentence of an error.
        logits: The model.
    """

    def __init__(self, who: str, logits: Logits) -> None:
        self._who, self._logits = who, logits
        self._classes: list[int] = []
        self._largest = 0.0

    def answer(self, batch: Batch, expected: Tensor | None = None) -> Tensor:
        """Logits of a batch, in float64, compared with the expected ones."""
        found: Any = self._logits(batch)
        found = getattr(found, "logits", found)
        rows = len(batch["labels"])
        if getattr(found, "ndim", None) != 2 or len(found) != rows:
            shape = tuple(getattr(found, "shape", ()))
            raise InputValueError(
                f"{self._who} gives {type(found).__name__} of shape {shape} for {rows} rows; "
                "logits of (rows, classes) are compared."
            )
        logits: Tensor = torch.as_tensor(found).detach().to("cpu", torch.float64)
        if expected is not None and logits.shape != expected.shape:
            raise InputValueError(
                f"{self._who} has {logits.shape[1]} classes and the model {expected.shape[1]}; "
                "compare what was exported from this model."
            )
        if bad := int((~logits.isfinite()).any(1).sum()):
            raise InputValueError(
                f"{self._who} gives logits that are NaN or infinite, for {bad} of {rows} rows of a "
                "batch; no difference can be told."
            )
        if expected is not None and rows:
            self._largest = max(self._largest, float((logits - expected).abs().max()))
        self._classes += logits.argmax(1).tolist()
        return logits

    def accuracy(self, labels: Sequence[int]) -> float:
        """Share of right answers."""
        return sum(self._right(labels)) / len(labels)

    def _right(self, labels: Sequence[int]) -> list[bool]:
        return [a == b for a, b in zip(self._classes, labels, strict=True)]

    def beside(
        self, model: "_Asked", name: str, size: int | None, labels: Sequence[int]
    ) -> Compared:
        """All that is said of it."""
        return Compared(
            name,
            len(labels),
            self._largest,
            flips(labels, model._classes, self._classes),
            paired(self._right(labels), model._right(labels)).p_value,
            self.accuracy(labels),
            size,
        )


def _labels_of(batch: Batch) -> list[int]:
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or labels.ndim != 1:
        raise InputValueError(
            "verify: data gives batches without 'labels'; give mappings of tensors that have them, "
            "(batch,)."
        )
    return [int(label) for label in labels]


def _check_labels(labels: Sequence[int], classes: int) -> None:
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise InputValueError(
            f"verify: labels={wrong[0]} is none of the {classes} classes; verify on rows with "
            "labels, numbered from 0."
        )


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules in eval mode for a while."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
