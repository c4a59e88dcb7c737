"""How rows become batches: the balanced order, cutting, padding, and the sharing among ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_adls.data.batching import Frame, LengthBatches, Rows, Truncation
from lightning_adls.data.division import balanced_order
from lightning_adls.errors import InputValueError

row_counts = st.integers(1, 300)
batch_sizes = st.integers(1, 40)
rank_counts = st.integers(1, 5)


def share(
    lengths: Tensor, batch_size: int, ranks: int, rank: int, epoch: int = 0, shuffle: bool = True
) -> list[list[int]]:
    batches = LengthBatches(
        lengths, batch_size, shuffle=shuffle, seed=3, num_replicas=ranks, rank=rank
    )
    batches.set_epoch(epoch)
    assert len(batches) == len(list(batches))
    return list(batches)


def rows_of(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def divides(rows: int, batch_size: int, ranks: int) -> bool:
    """Whether each rank can have as many batches as the others, and each row be in one."""
    return rows >= ranks and (batch_size > 1 or rows % ranks == 0)


@given(row_counts, batch_sizes, rank_counts, st.booleans())
def test_the_ranks_together_have_every_row_and_none_twice(
    rows: int, batch_size: int, ranks: int, shuffle: bool
) -> None:
    if not shuffle and not divides(rows, batch_size, ranks):
        return
    lengths = torch.arange(rows) % 17
    shares = [share(lengths, batch_size, ranks, rank, shuffle=shuffle) for rank in range(ranks)]
    assert {len(batches) for batches in shares} == {math.ceil(rows / (batch_size * ranks))}
    dealt = rows_of([batch for batches in shares for batch in batches])
    assert set(dealt) == set(range(rows))
    if divides(rows, batch_size, ranks):
        assert len(dealt) == rows
    else:  # no rank is idle in the last step of a training
        assert len(dealt) == math.ceil(rows / ranks) * ranks


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_an_evaluation_that_would_count_rows_twice_is_refused(ranks: int) -> None:
    for rows, batch_size in ((ranks - 1, 8), (2 * ranks + 1, 1)):
        message = f"TextData: {rows} rows in batches of {batch_size} .* once each on {ranks} dev"
        with pytest.raises(InputValueError, match=message):
            share(torch.ones(rows), batch_size, ranks, 0, shuffle=False)
        assert share(torch.ones(rows), batch_size, ranks, 0, shuffle=True)


@given(row_counts, batch_sizes, rank_counts)
def test_all_batches_but_those_of_the_last_two_steps_are_full(
    rows: int, batch_size: int, ranks: int
) -> None:
    for rank in range(ranks):
        sizes = [len(batch) for batch in share(torch.ones(rows), batch_size, ranks, rank)]
        # One step has what is left over; one more gives up a row where that is too little.
        short = sorted(size for size in sizes if size != batch_size)
        assert len(short) < 2 or short == [1, batch_size - 1]
        assert min(sizes) >= 1


def test_the_order_is_of_the_seed_and_the_epoch_alone() -> None:
    lengths = torch.arange(500) % 23
    assert share(lengths, 8, 2, 1, epoch=4) == share(lengths, 8, 2, 1, epoch=4)
    assert share(lengths, 8, 2, 1, epoch=4) != share(lengths, 8, 2, 1, epoch=5)
    other = LengthBatches(lengths, 8, shuffle=True, seed=4, num_replicas=2, rank=1)
    other.set_epoch(4)
    assert share(lengths, 8, 2, 1, epoch=4) != list(other)


def test_a_seed_and_an_epoch_do_not_stand_in_for_each_other() -> None:
    lengths = torch.arange(500) % 23
    first = LengthBatches(lengths, 8, shuffle=True, seed=0)
    first.set_epoch(1)
    assert list(first) != list(LengthBatches(lengths, 8, shuffle=True, seed=1))


def test_other_rows_share_a_batch_in_another_epoch() -> None:
    lengths = torch.randint(5, 100, (4000,))
    first, second = (
        {frozenset(batch) for batch in share(lengths, 16, 1, 0, epoch=e)} for e in (0, 1)
    )
    assert not first & second


def test_evaluation_has_the_same_batches_in_every_epoch() -> None:
    lengths = torch.arange(200) % 23
    assert share(lengths, 8, 1, 0, epoch=0, shuffle=False) == share(
        lengths, 8, 1, 0, epoch=1, shuffle=False
    )


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_of_like_length_share_a_batch(shuffle: bool) -> None:
    lengths = torch.randint(5, 250, (20_000,), generator=torch.Generator().manual_seed(0))
    batches = [lengths[batch] for batch in share(lengths, 32, 1, 0, shuffle=shuffle)]
    padded = sum(len(batch) * int(batch.max()) for batch in batches)
    assert padded < 1.03 * lengths.sum()  # 1.9 for batches at random


def test_ranks_work_on_like_lengths_at_the_same_time() -> None:
    lengths = torch.randint(5, 250, (8_000,), generator=torch.Generator().manual_seed(0))
    first, second = (share(lengths, 32, 2, rank) for rank in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert abs(int(lengths[one].max()) - int(lengths[other].max())) <= 12


def test_the_first_batches_of_an_evaluation_are_neither_the_short_nor_the_long_ones() -> None:
    lengths = torch.arange(6400)
    few = rows_of(share(lengths, 64, 1, 0, shuffle=False)[:20])
    assert 2000 < sum(few) / len(few) < 4400


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(0, 5))
def test_every_prefix_of_the_balanced_order_has_each_class_in_its_share(
    classes: list[int], seed: int
) -> None:
    labels = torch.tensor(classes)
    order = balanced_order(labels, [seed])
    assert sorted(order.tolist()) == list(range(len(labels)))
    share_of = labels.bincount(minlength=4) / len(labels)
    for length in range(1, len(labels) + 1):
        count = labels[order[:length]].bincount(minlength=4)
        # Each class is placed to within half a row; four classes may all lag or lead at once.
        assert ((count - share_of * length).abs() <= 2).all()


def test_a_class_of_one_row_comes_in_the_middle_and_so_not_into_a_small_part() -> None:
    order = balanced_order(torch.tensor([0] * 40 + [1]), [0]).tolist()
    assert 18 <= order.index(40) <= 22


def test_the_balanced_order_depends_on_the_seed() -> None:
    labels = torch.arange(50) % 2
    assert torch.equal(balanced_order(labels, [1]), balanced_order(labels, [1]))
    assert not torch.equal(balanced_order(labels, [1]), balanced_order(labels, [2]))


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        ("head", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("tail", [12, 13, 14, 15, 16, 17, 18, 19]),
        ("head_tail", [0, 1, 14, 15, 16, 17, 18, 19]),
    ],
)
def test_truncation_keeps_what_it_says(truncation: Truncation, kept: list[int]) -> None:
    frame = Frame((101,), (102,), 0, max_length=10, truncation=truncation)
    assert frame.cut(torch.arange(20)).tolist() == kept
    assert frame.cut(torch.arange(8)).tolist() == list(range(8))


def test_a_batch_is_made_as_one_would_by_hand() -> None:
    frame = Frame((101,), (102, 103), 9, max_length=20, truncation="head")
    ids, starts = torch.tensor([1, 2, 3, 4, 5, 6, 7], dtype=torch.int32), torch.tensor([0, 4, 4, 7])
    rows = Rows(
        ids, starts, torch.tensor([2, 1]), torch.tensor([1, 0]), torch.tensor([7, 5]), frame, True
    )
    batch = rows[[1, 0]]
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[101, 102, 103, 9, 9, 9, 9, 9], [101, 5, 6, 7, 102, 103, 9, 9]],
        "attention_mask": [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]],
        "labels": [0, 1],
        "index": [5, 7],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(8, 30))
def test_the_width_is_a_multiple_of_eight_or_the_most_there_may_be(
    lengths: list[int], max_length: int
) -> None:
    frame = Frame((101,), (102,), 0, max_length, "tail")
    starts = torch.tensor([0, *lengths]).cumsum(0)
    every = torch.arange(len(lengths))
    rows = Rows(torch.ones(int(starts[-1]), dtype=torch.int32), starts, every, every, every, frame)
    mask = rows[every.tolist()]["attention_mask"]
    longest = min(max(lengths) + 2, max_length)
    assert mask.shape[1] in (max_length, -(-longest // 8) * 8)
    assert longest <= mask.shape[1] <= max_length
    assert mask.sum(1).tolist() == [min(length + 2, max_length) for length in lengths]
    assert torch.equal(mask.sum(1), rows.lengths)
