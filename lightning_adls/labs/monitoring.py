"""What the trials of a lab's searches are compared by, and on which rows they are reported."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import lightning as L
from optuna.trial import FrozenTrial

from lightning_adls.budget import Budget
from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.labs.halves import Halves, ReportOn
from lightning_adls.labs.row_metrics import RowMetrics, log_probabilities
from lightning_adls.report import Row
from lightning_adls.search.modes import Mode
from lightning_adls.search.outcomes import METRICS, METRICS_BEFORE
from lightning_adls.search.values import value_of

Monitor = Literal["val/accuracy", "val/loss", "val/divergence"]
MODES: Mapping[str, Mode] = {"val/accuracy": "max", "val/loss": "min", "val/divergence": "min"}
# Parts of the validation rows: all of them, those to choose by, and those to report on.
_ALL, _CHOOSING, _REPORTING = "val", "choosing", "reporting"


class Monitoring:
    """What a search looks at.

    Args:
        rows: How many rows there are to validate on.
        monitor: What trials are compared by: the accuracy, the loss, or the divergence from a
            reference, which :meth:`refer_to` makes known.
        halves: Of those rows; None to compare and to report on all of them.
    """

    def __init__(
        self, rows: int, monitor: Monitor = "val/accuracy", halves: Halves | None = None
    ) -> None:
        self._rows, self._monitor, self._halves = rows, monitor, halves
        self._make: _Making | None = None
        if halves is not None or monitor == "val/divergence":
            self._make = _Making(halves)

    @classmethod
    def of(cls, texts: TextData, monitor: Monitor, report_on: ReportOn, seed: int) -> "Monitoring":
        """From the arguments of a lab.

        Args:
            texts: The data set, set up to validate on.
            monitor: As above.
            report_on: Whether trials are compared and reported on all validation rows, or compared
                on one half of them and reported on the other; see :class:`Halves`.
            seed: Of the halves.
        """
        halves = Halves.of(texts, seed) if report_on == "half" else None
        return cls(texts.row_counts["val"], monitor, halves)

    def refer_to(self, module: TextClassifier, texts: TextData, budget: Budget) -> None:
        """Compare trials with this model, where they are compared with one.

        Args:
            module: Such as the unquantised one.
            texts: The data set.
            budget: In whose precision it is run, once.
        """
        if self._monitor == "val/divergence" and self._make is not None:
            self._make.reference = log_probabilities(module, texts, budget)

    @property
    def for_objective(self) -> dict[str, Any]:
        """Arguments of an :class:`~lightning_adls.search.Objective`."""
        part = _ALL if self._halves is None else _CHOOSING
        return {
            "monitor": self._monitor.replace("val/", f"{part}/"),
            "mode": self.mode,
            "metrics": [] if self._make is None else [self._make],
        }

    @property
    def for_study(self) -> dict[str, Any]:
        """Arguments of :func:`~lightning_adls.search.open_study`."""
        return {"metric": self.for_objective["monitor"], "mode": self.mode}

    @property
    def mode(self) -> Mode:
        """Whether high or low values are good."""
        return MODES[self._monitor]

    @property
    def by_accuracy(self) -> bool:
        """Whether trials are compared by their accuracies."""
        return self._monitor == "val/accuracy"

    @property
    def choosing_rows(self) -> int:
        """How many rows trials are compared on."""
        return self._rows if self._halves is None else self._halves.sizes[0]

    @property
    def reporting_rows(self) -> int:
        """How many rows accuracies are reported on."""
        return self._rows if self._halves is None else self._halves.sizes[1]

    @property
    def comparing(self) -> Collection[int] | None:
        """Numbers of the rows that trials are compared on; None for all."""
        return None if self._halves is None else self._halves.comparing

    @property
    def reporting(self) -> Collection[int] | None:
        """Numbers of the rows that are reported on; None for all."""
        return None if self._halves is None else self._halves.reporting

    def accuracy(self, trial: FrozenTrial | None) -> float | None:
        """The accuracy of a trial that is reported; None of one that has none."""
        return None if trial is None else self._of(trial, METRICS, value_of(trial))

    def accuracy_before(self, trial: FrozenTrial) -> float | None:
        """The same before compression; None where nothing was compressed."""
        return self._of(trial, METRICS_BEFORE, trial.user_attrs.get("before_compression"))

    def _of(self, trial: FrozenTrial, when: str, value: float | None) -> float | None:
        if self.by_accuracy and self._halves is None:
            return value
        part = _ALL if self._halves is None else _REPORTING
        found: float | None = trial.user_attrs.get(when, {}).get(f"{part}/accuracy")
        return found

    def against_reference(self, trial: FrozenTrial) -> Row:
        """``val_divergence`` in nats and ``flips``, on the rows that are reported on, or None."""
        part = _ALL if self._halves is None else _REPORTING
        metrics = trial.user_attrs.get(METRICS, {})
        share = metrics.get(f"{part}/flips")
        return {
            "val_divergence": metrics.get(f"{part}/divergence"),
            "flips": None if share is None else round(share * self.reporting_rows),
        }


class _Making:
    """Makes the callback of a trial; the reference is not known before the lab has its start."""

    def __init__(self, halves: Halves | None) -> None:
        self._parts = (
            {} if halves is None else {_CHOOSING: halves.choosing, _REPORTING: ~halves.choosing}
        )
        self.reference: Any = None

    def __call__(self) -> L.Callback:
        return RowMetrics(self._parts, self.reference)
