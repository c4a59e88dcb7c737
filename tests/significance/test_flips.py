"""Answers that a change of a model changed, counted row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.errors import InputValueError
from lightning_adls.significance import flips

CLASSES = st.integers(0, 2)
ROWS = st.lists(st.tuples(CLASSES, CLASSES, CLASSES), min_size=1)


@given(ROWS)
def test_flips_are_the_cells_of_the_two_confusion_matrices(rows: list[tuple[int, ...]]) -> None:
    labels, before, after = (list(column) for column in zip(*rows, strict=True))
    found = flips(labels, before, after)
    label, old, new = np.array(rows).T
    assert found.changed == np.count_nonzero(old - new)
    assert found.share == pytest.approx(np.mean(old != new))
    # What it gains and loses is what its accuracy changes by.
    gained = found.wrong_to_right - found.right_to_wrong
    assert gained == np.sum(new == label) - np.sum(old == label)
    assert found.right_to_wrong + found.wrong_to_right <= found.changed <= found.rows


@given(ROWS)
def test_what_is_turned_back_is_gained_where_it_was_lost(rows: list[tuple[int, ...]]) -> None:
    labels, before, after = (list(column) for column in zip(*rows, strict=True))
    there, back = flips(labels, before, after), flips(labels, after, before)
    assert there.changed == back.changed
    assert (there.right_to_wrong, there.wrong_to_right) == (
        back.wrong_to_right,
        back.right_to_wrong,
    )


@pytest.mark.parametrize("columns", [([], [], []), ([1], [1], []), ([1, 0], [1], [1])])
def test_other_rows_are_refused(columns: tuple[list[int], list[int], list[int]]) -> None:
    with pytest.raises(InputValueError, match=f"labels has {len(columns[0])} rows"):
        flips(*columns)
