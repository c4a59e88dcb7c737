"""Tokenised rows, and how batches of rows of like length are made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from lightning_adls.errors import InputValueError

Batch = dict[str, Tensor]
Truncation = Literal["head", "tail", "head_tail"]

_WINDOW_STEPS = 50  # sorted at a time: enough for 1.03 padded per real token on IMDB
_PAD_MULTIPLE = 8  # few distinct widths: tensor cores like them, torch.compile recompiles less


@dataclass(frozen=True)
class Frame:
    """What is put around a row's own tokens, and how long the whole may be.

    Args:
        prefix: Tokens before the text, such as ``[CLS]``.
        suffix: Tokens after the text, such as ``[SEP]``.
        pad: Token that fills a batch up to its longest row.
        max_length: Most tokens of a row, prefix and suffix included.
        truncation: What a longer text keeps: its ``"head"``, its ``"tail"``, or a quarter from
            the head and the rest from the tail (``"head_tail"``; 128 + 382 of 510 tokens in
            Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1).
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    max_length: int
    truncation: Truncation

    @property
    def room(self) -> int:
        """Most tokens of the text itself."""
        return self.max_length - len(self.prefix) - len(self.suffix)

    def cut(self, ids: Tensor) -> Tensor:
        """Shorten the tokens of one text, shape ``(tokens,)``, to at most ``room``."""
        surplus = len(ids) - self.room
        if surplus <= 0:
            return ids
        kept_head = {"head": self.room, "tail": 0, "head_tail": self.room // 4}[self.truncation]
        return torch.cat([ids[:kept_head], ids[kept_head + surplus :]])


class Share(list[int]):
    """The rows that one rank has of a step.

    Attributes:
        longest: Tokens of the longest row that any rank has of it.
    """

    def __init__(self, rows: Sequence[int], longest: int) -> None:
        super().__init__(rows)
        self.longest = longest


class Rows(Dataset[Batch]):
    """Tokenised, labelled texts; indexing with a list of rows gives their batch.

    Args:
        ids: Tokens of all texts one after the other, without prefix and suffix, ``(tokens,)``.
        starts: Where each text begins in ``ids``, with the end of the last, ``(texts + 1,)``.
        texts: Which texts the rows are, ``(rows,)``.
        labels: Class of each row, int64, ``(rows,)``.
        index: Number each row has in its split's file, int64, ``(rows,)``.
        frame: Prefix, suffix, padding and truncation.
        with_index: Whether batches carry ``index``, to put predictions back in order.
    """

    def __init__(
        self,
        ids: Tensor,
        starts: Tensor,
        texts: Tensor,
        labels: Tensor,
        index: Tensor,
        frame: Frame,
        with_index: bool = False,
    ) -> None:
        self.ids, self.frame, self.with_index = ids, frame, with_index
        self.labels, self.index = labels, index
        self.begin, self.end = starts[texts], starts[texts + 1]
        room = frame.max_length - frame.room
        self.lengths = (self.end - self.begin).clamp(max=frame.room) + room

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """Make the batch of ``rows``.

        Returns:
            ``input_ids`` and ``attention_mask``, int64, ``(batch, tokens)``, where ``tokens`` is
            the longest row rounded up to a multiple of 8 but not above ``max_length`` (of a
            :class:`Share`, that of all ranks, so that all compute in the shape that one would);
            ``labels``, int64, ``(batch,)``; with ``with_index`` also ``index``, ``(batch,)``.
        """
        frame, chosen = self.frame, torch.as_tensor(rows)
        lengths = self.lengths[chosen]
        longest = rows.longest if isinstance(rows, Share) else int(lengths.max())
        width = -(-longest // _PAD_MULTIPLE) * _PAD_MULTIPLE
        width = min(width, frame.max_length)
        input_ids = torch.full((len(chosen), width), frame.pad)
        prefix, suffix = torch.tensor(frame.prefix), torch.tensor(frame.suffix)
        for line, row in zip(input_ids, chosen.tolist(), strict=True):
            text = frame.cut(self.ids[self.begin[row] : self.end[row]])
            tokens = torch.cat([prefix, text, suffix])
            line[: len(tokens)] = tokens
        batch = {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "labels": self.labels[chosen],
        }
        return batch | {"index": self.index[chosen]} if self.with_index else batch


class LengthBatches(DistributedSampler[list[int]]):
    """Batches of rows of like length, shared among the ranks of a distributed run.

    In training all rows are shuffled, sorted by length within windows of 50 steps, cut into
    steps, and the steps shuffled. In evaluation all rows are sorted by length, and the order of
    the steps is shuffled once, so that the first few are a fair sample.

    A step holds ``batch_size`` rows for every rank, dealt out in turn: ranks get rows of like
    length and wait little for each other, and pad them to the same width. One step holds what is
    left over; where that is fewer rows than there are ranks, it takes some of the step before, so
    that no rank is idle. Every row is in exactly one batch of one rank, and every rank has the same
    number of batches.

    With a single row per batch, or fewer rows than ranks, that cannot be. Training repeats some
    rows of the last step then; evaluation would count them twice and is refused.

    A resumed epoch begins at a later batch: see ``resume``.

    It is a ``DistributedSampler`` so that Lightning leaves it in place and calls ``set_epoch``.

    Args:
        lengths: Tokens of each row, ``(rows,)``.
        batch_size: Rows of a batch, per rank.
        shuffle: Whether rows are shuffled anew each epoch (training) or never (evaluation).
        seed: With the epoch, decides the order; nothing else does.
        num_replicas: Number of ranks.
        rank: Which of them this is.

    Raises:
        ValueError: If an evaluation would count rows twice.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(lengths, num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]
        self.lengths = lengths.numpy()
        self.batch_size = batch_size
        steps, step_rows = len(self), batch_size * num_replicas
        lacking = max(0, (steps - 1) * step_rows + num_replicas - len(lengths))
        if lacking and (steps == 1 or batch_size == 1):
            if not shuffle:
                raise InputValueError(
                    f"TextData: {len(lengths)} rows in batches of {batch_size} cannot be evaluated "
                    f"once each on {num_replicas} devices; take batches of 2 or more, and no more "
                    "devices than rows."
                )
            lacking = 0
        # Where each step begins in the order of the rows, and where the last one ends.
        self._bounds = [*range(0, len(lengths), step_rows), len(lengths)]
        self._bounds[-2] -= lacking
        self._start = (0, 0)

    def resume(self, epoch: int, batch: int) -> None:
        """Set the epoch, and leave out its first batches, here and whenever it is iterated."""
        self._start = (epoch, batch)
        self.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch if self.shuffle else 0])
        order = np.arange(len(self.lengths))
        window = len(order)
        if self.shuffle:
            rng.shuffle(order)
            window = _WINDOW_STEPS * self.batch_size * self.num_replicas
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part[:] = part[np.argsort(self.lengths[part], kind="stable")]
        epoch, done = self._start
        for step in rng.permutation(len(self))[done if self.epoch == epoch else 0 :]:
            rows = order[self._bounds[step] : self._bounds[step + 1]]
            rows = np.resize(rows, max(len(rows), self.num_replicas))
            longest = int(self.lengths[rows].max())
            yield Share(rows[self.rank :: self.num_replicas].tolist(), longest)
