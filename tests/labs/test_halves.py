"""The validation rows in two halves."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.labs.halves import Halves

LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=60)
SEEDS = st.integers(0, 2**32 - 1)


def halves(labels: list[int], seed: int) -> Halves:
    rows = _Rows(labels)
    texts: Any = SimpleNamespace(rows=lambda part: rows)
    return Halves.of(texts, seed)


class _Rows:
    def __init__(self, labels: list[int]) -> None:
        self.labels = torch.tensor(labels)
        self.index = 100 + torch.arange(len(labels))

    def __len__(self) -> int:
        return len(self.labels)


@given(LABELS, SEEDS)
def test_each_class_is_halved_and_no_row_is_in_both(labels: list[int], seed: int) -> None:
    found = halves(labels, seed)
    choosing, rows = found.choosing, torch.tensor(labels)
    for label in set(labels):
        of_class = rows == label
        chosen = int((choosing & of_class).sum())
        assert abs(2 * chosen - int(of_class.sum())) <= 1
    assert sum(found.sizes) == len(labels)
    assert abs(found.sizes[0] - found.sizes[1]) <= 1
    assert found.reporting == {100 + n for n in range(len(labels)) if not choosing[n]}
    assert found.comparing == {100 + n for n in range(len(labels)) if choosing[n]}


@given(LABELS, SEEDS)
def test_the_seed_alone_decides_them(labels: list[int], seed: int) -> None:
    first = halves(labels, seed)
    torch.manual_seed(seed + 1)
    state = torch.get_rng_state()
    assert torch.equal(halves(labels, seed).choosing, first.choosing)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_row_is_in_either_half_for_some_seed() -> None:
    drawn = torch.stack([halves([0, 1] * 10, seed).choosing for seed in range(400)])
    assert torch.all((drawn.double().mean(0) - 0.5).abs() < 0.1)


def test_halves_of_a_data_set_are_those_of_its_validation_rows(texts: TextData) -> None:
    found = Halves.of(texts, 0)
    assert found.sizes == (32, 32)
    assert torch.equal(found.index, texts.rows("val").index)


def test_a_single_row_is_refused() -> None:
    with pytest.raises(InputValueError, match="1 row to validate on cannot be divided"):
        halves([0], 0)
