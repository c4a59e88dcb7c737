"""Measurements over sizes, devices and kinds of step."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from lightning_adls.bench.instruments.timing import ROUNDS, Rounds
from lightning_adls.bench.measure import measure
from lightning_adls.bench.records import Record
from lightning_adls.bench.workloads.inputs import Inputs
from lightning_adls.bench.workloads.steps import Loss, Target, mean_square
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.errors import InputValueError


def sweep(
    targets: Target | Mapping[str, Target],
    inputs: Callable[[int, int], Inputs],
    variants: Sequence[Variant] = (Variant(), Variant("inductor")),
    *,
    batch_sizes: Sequence[int],
    tokens: Sequence[int],
    devices: Sequence[torch.device | str] = ("cpu",),
    training: Sequence[bool] = (False,),
    loss: Loss = mean_square,
    rounds: Rounds = ROUNDS,
    cold: bool = True,
    report: Callable[[list[Record]], object] = lambda records: None,
) -> list[Record]:
    """Measure every combination; within one, all targets and variants take turns.

    Each size is compiled anew, as if it was the only one. How often one compiled model recompiles
    for changing sizes is what ``count_graphs`` counts.

    Args:
        targets: As for ``measure``.
        inputs: Makes the inputs from a batch size and a number of tokens.
        variants: As for ``measure``.
        batch_sizes: Samples per step, 1 or more.
        tokens: Of each sample, 1 or more.
        devices: ``cpu``, ``cuda``.
        training: True for full training steps, False for forward passes.
        loss: As for ``measure``.
        rounds: As for ``measure``.
        cold: As for ``measure``.
        report: Is given the records of each combination when it is done.

    Raises:
        ValueError: If there is nothing to measure, or a size is below 1.

    Example:
        >>> inputs = lambda batch, tokens: torch.ones(batch, tokens, 8)
        >>> net = torch.nn.Linear(8, 2)
        >>> records = sweep(net, inputs, [Variant()], batch_sizes=[1, 2], tokens=[3])
        >>> [(record["batch"], record["tokens"]) for record in records]
        [(1, 3), (2, 3)]
    """
    for name, sizes in (("batch_sizes", batch_sizes), ("tokens", tokens)):
        if any(size < 1 for size in sizes):
            raise InputValueError(f"sweep: {name}={list(sizes)} has a size below 1.")
    cases = list(product(devices, training, batch_sizes, tokens))
    if not cases:
        raise InputValueError(
            "sweep: give at least one device, kind of step, batch size and length."
        )
    records: list[Record] = []
    for device, trains, batch, length in cases:
        found = measure(
            targets,
            inputs(batch, length),
            variants,
            device=device,
            training=trains,
            loss=loss,
            rounds=rounds,
            cold=cold,
        )
        report(found)
        records += found
    return records
