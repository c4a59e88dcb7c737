"""A lab of your own: accuracy over cost of every step's model, and confusion matrices."""

from lightning_adls.figures import Candidate, draw_front
from lightning_adls.labs.drawing.drawn import OF_THE_FRONT, Figure, chance, confusions
from lightning_adls.labs.stored import StoredRun

# What a front is drawn over: the first of these in which the models differ.
_COSTS = {
    "bits_per_weight": "bits per weight",
    "size_mb": "size in MB",
    "parameters": "parameters",
    "sparsity": "share of weights that are zero",
}


def draw(run: StoredRun) -> list[Figure]:
    """Every figure that the steps so far give."""
    tested = {
        row["step"]: row["step"] for row in run.rows if row["test_standard_error"] is not None
    }
    return [*_front(run), *confusions(run, tested)]


def _front(run: StoredRun) -> list[Figure]:
    cost = next((each for each in _COSTS if len({row[each] for row in run.rows}) > 1), None)
    if cost is None:
        return []
    path = run.folder / "front.png"
    draw_front(
        path,
        [
            Candidate(
                row["step"].partition("/")[0],
                row[cost],
                row["val_accuracy"],
                row["val_standard_error"],
            )
            for row in run.rows
        ],
        title=f"Validation accuracy over {_COSTS[cost]}",
        x_label=_COSTS[cost],
        y_label="validation accuracy",
        subtitle=run.subtitle,
        compare=chance(run),
    )
    return [Figure(path, f"The model of every step, {OF_THE_FRONT}")]
