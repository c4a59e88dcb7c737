"""What is known of a figure, and what figures of several labs have in common."""

from pathlib import Path
from typing import NamedTuple

from lightning_adls.figures import Level, Levels, draw_confusions
from lightning_adls.figures.confusion import Matrix
from lightning_adls.labs.classified import Answers
from lightning_adls.labs.stored import StoredRun
from lightning_adls.report import Row

# Of figures of accuracy over cost, after what their points are.
OF_THE_FRONT = (
    "and the Pareto front: what nothing beats in both; its bars are binomial standard errors."
)


class Figure(NamedTuple):
    """A figure of a run.

    Attributes:
        path: Of the PNG file; the PDF lies beside it.
        caption: What it shows and how, in a sentence or two.
    """

    path: Path
    caption: str


def chance(run: StoredRun) -> Levels:
    """The level of guessing, if the classes are known."""
    return {"chance": 1 / len(run.classes)} if run.classes else {}


def level(row: Row) -> Level:
    """The validation accuracy of a model, with its standard error, to compare others with."""
    return row["val_accuracy"], row["val_standard_error"]


def matrix_of(answers: Answers, classes: int) -> Matrix:
    """Counts of ``[class][predicted class]``."""
    counts = [[0] * classes for _ in range(classes)]
    for label, predicted in answers.values():
        counts[label][predicted] += 1
    return counts


def confusions(run: StoredRun, steps: dict[str, str]) -> list[Figure]:
    """The confusion matrices of models on the test rows.

    Args:
        run: The run.
        steps: By the name in the figure, the step whose model was tested.
    """
    found = {name: run.answers("test", step) for name, step in steps.items()}
    matrices = {
        name: matrix_of(answers, len(run.classes))
        for name, answers in found.items()
        if answers is not None and run.classes
    }
    if not matrices:
        return []
    path = run.folder / "confusion.png"
    title = "Test rows: class and predicted class"
    draw_confusions(path, matrices, run.classes, title=title, subtitle=run.subtitle)
    return [Figure(path, "Which class was taken for which, on the test rows; accuracies above.")]
