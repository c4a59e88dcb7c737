"""What the figures of both searches, Labs 2 and 3, are made of."""

from collections.abc import Mapping, Sequence

from lightning_adls.figures import draw_importances
from lightning_adls.labs.drawing.drawn import Figure
from lightning_adls.labs.monitoring import MODES
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row
from lightning_adls.search.importances import importances
from lightning_adls.search.modes import Mode


def studies(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The trials of each study, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["study"], []).append(row)
    return found


def curve(trials: Sequence[Row]) -> list[tuple[float, float]]:
    """The running best as points: number of trials, best value so far."""
    return [(t["trial"], t["running_best"]) for t in trials if t["running_best"] is not None]


def best(trials: Sequence[Row]) -> Row | None:
    """The complete trial of the best value, the earliest of equals; None if none completed."""
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if not complete:
        return None
    reached = trials[-1]["running_best"]
    # The nearest, because the last digits may have been rounded in another way.
    return min(complete, key=lambda trial: abs(_value(trial) - reached))


def _value(trial: Row) -> float:
    """What it is compared by: in runs of earlier versions always its accuracy."""
    value: float = trial["value"] if "value" in trial else trial["val_accuracy"]
    return value


def error(trials: Sequence[Row]) -> float | None:
    """Standard error of the last running best; None where it has none."""
    return trials[-1].get("running_best_standard_error") if trials else None


# What trials are compared by, in words.
_MONITORS = {
    "val/accuracy": "validation accuracy",
    "val/loss": "validation loss in nats",
    "val/divergence": "divergence from the start in nats",
}


def monitored(run: StoredRun) -> tuple[str, Mode]:
    """What a run's trials are compared by, in words, and whether it is to be high or low."""
    monitor = run.config.get("monitor", "val/accuracy")
    return _MONITORS[monitor], MODES[monitor]


def on_which_rows(run: StoredRun) -> str:
    """The end of a caption, where trials are compared on other rows than they are reported on."""
    if run.config.get("report_on") != "half":
        return ""
    return " Of the half of the validation rows by which trials are compared."


def draw_importances_of(
    run: StoredRun, groups: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
) -> list[Figure]:
    """Draw what decided the value of the trials, for each group of them that can tell.

    Args:
        run: The run.
        groups: By name, the choices and the value of each trial.
    """
    found = {name: importances(trials) for name, trials in groups.items()}
    found = {name: shares for name, shares in found.items() if shares}
    if not found:
        return []
    path = run.folder / "importances.png"
    draw_importances(
        path,
        found,
        {name: len(trials) for name, trials in groups.items()},
        title="Which choices decided the validation accuracy (PED-ANOVA)",
        subtitle=run.subtitle,
    )
    caption = (
        "Share of each choice in what tells the best trials from the others (PED-ANOVA, Watanabe "
        "et al. 2023). Of few trials it is a rough guess."
    )
    return [Figure(path, caption)]
