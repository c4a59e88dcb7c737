"""What one should know before one believes a lab's numbers: a line each, that says what to do."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

from lightning_adls.data import TextData
from lightning_adls.search import Search
from lightning_adls.significance import standard_error

FEWEST_ROWS = 200
# Standard errors that two accuracies may be apart by chance alone: in 999 of 1,000 cases less.
_FAR = 3.29

_said: set[str] = set()


def say(concerns: Iterable[str]) -> None:
    """Print each on standard error, and none a second time."""
    for concern in concerns:
        if concern not in _said:
            _said.add(concern)
            print(f"warning: {concern}", file=sys.stderr)


def about_data(texts: TextData) -> list[str]:
    """Too few rows to validate on, and classes that never occur.

    Args:
        texts: The data set, set up to train and validate on.
    """
    counts = {split: texts.class_counts(split) for split in ("train", "val")}
    return about_counts(counts["train"], counts["val"])


def about_counts(train: Mapping[str, int], val: Mapping[str, int]) -> list[str]:
    """As :func:`about_data`, from the number of rows by the name of the class."""
    concerns = []
    rows = sum(val.values())
    if rows < FEWEST_ROWS:
        concerns.append(
            f"{rows} rows validate: accuracies have a standard error of up to "
            f"{standard_error(0.5, rows):.3f}, and differences below that mean nothing; raise "
            "--data.limit_val or --data.val_fraction."
        )
    for split, counts in (("training", train), ("validation", val)):
        if absent := [name for name, count in counts.items() if not count]:
            concerns.append(
                f"no row of the {split} split is of class {', '.join(absent)}; raise "
                f"--data.limit_{'train' if split == 'training' else 'val'}, or leave the class out "
                "of the data."
            )
    return concerns


def about_start(accuracy: float, val: Mapping[str, int]) -> list[str]:
    """Whether what everything starts from has learned nothing.

    Args:
        accuracy: Of the start on the validation split.
        val: Rows of the validation split by the name of the class.
    """
    rows = sum(val.values())
    chance = max(val.values()) / rows
    # At the edge of chance it may be by chance, one time in forty.
    if accuracy > chance + 1.96 * standard_error(chance, rows):
        return []
    return [
        f"the start is at chance: accuracy {accuracy:.3f}, where always the most frequent class "
        f"has {chance:.3f}; what is built on it cannot be told apart. Train it longer, at another "
        "learning rate or on more rows, or start from weights that have learned."
    ]


def about_test(name: str, val: float, test: float, texts: TextData) -> list[str]:
    """Whether the test accuracy of a model is another than that on the validation split.

    Args:
        name: Of the model.
        val: Accuracy on the validation split.
        test: Accuracy on the test split.
        texts: The data set; where its test split is not set up, nothing is said.
    """
    val_rows, test_rows = (sum(texts.class_counts(part).values()) for part in ("val", "test"))
    if not (val_rows and test_rows):
        return []
    apart = sqrt(standard_error(val, val_rows) ** 2 + standard_error(test, test_rows) ** 2)
    if abs(test - val) <= _FAR * apart:
        return []
    return [
        f"{name}: test accuracy {test:.3f} is far from {val:.3f} on the validation split, more "
        f"than chance explains ({_FAR * apart:.3f}); validate on more rows (--data.limit_val), "
        "choose among fewer models, and report the test accuracy."
    ]


def about_searches(searches: Iterable[Search[Any]], rows: int) -> list[str]:
    """As :func:`about_spread`, of searches whose values are accuracies on so many rows."""
    values = {
        search.name: [trial.values[0] for trial in search.counted if trial.state.name == "COMPLETE"]
        for search in searches
    }
    return about_spread(values, rows)


def about_spread(values: Mapping[str, Sequence[float]], rows: int) -> list[str]:
    """Searches whose trials differ by no more than chance lets the best of them vary.

    Args:
        values: Of the complete trials, by search.
        rows: Of the validation split.
    """
    flat = {
        name: (max(found) - min(found), standard_error(max(found), rows))
        for name, found in values.items()
        if len(found) > 1
    }
    within = {name: each for name, each in flat.items() if each[0] <= each[1]}
    if not within:
        return []
    widest = max(error for _, error in within.values())
    return [
        f"{', '.join(within)}: the trials differ by no more than one standard error (up to "
        f"{widest:.3f}), so that their order means nothing; validate on more rows "
        "(--data.limit_val), search harder choices (fewer bits), or train longer (--budget.epochs)."
    ]
