"""Measure models in several variants: times, memory, compilation and correctness."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from lightning_adls.bench.contestant import Contestant, Setting, reference_result
from lightning_adls.bench.failures import one_line
from lightning_adls.bench.instruments.timing import ROUNDS, Rounds, alternate
from lightning_adls.bench.records import Record, records_of
from lightning_adls.bench.workloads.compiler_state import room_for
from lightning_adls.bench.workloads.devices import current, usable
from lightning_adls.bench.workloads.inputs import Inputs, batch_and_tokens
from lightning_adls.bench.workloads.steps import Loss, Target, mean_square
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.errors import InputValueError


def measure(
    targets: Target | Mapping[str, Target],
    inputs: Inputs,
    variants: Sequence[Variant] = (Variant(), Variant("inductor")),
    *,
    device: torch.device | str = "cpu",
    training: bool = False,
    loss: Loss = mean_square,
    rounds: Rounds = ROUNDS,
    cold: bool = True,
) -> list[Record]:
    """Measure every target in every variant, all of them taking turns.

    Each variant runs a copy of the module, so the given one does not change; all copies are in
    memory at the same time. What cannot be measured gets a record that says why, and the others are
    measured. torch forgets what this process has compiled.

    Args:
        targets: A module or function, or several by name. Functions run as they are.
        inputs: A tensor, positional arguments, or arguments by name. The first dimension of the
            first tensor is the batch; integers ``(batch, tokens)`` and floating-point numbers
            ``(batch, tokens, features)`` have tokens.
        variants: How to run them; name first what the others are compared with.
        device: ``cpu`` or ``cuda``, with an index if there are several.
        training: Measure full training steps, without dropout, at a learning rate of 0; otherwise
            forward passes in eval mode, without gradients.
        loss: Of a training step, maps the output's tensor (``logits`` where it has them) to a
            scalar.
        rounds: How many rounds to warm up and to time. A mode with CUDA graphs records them in its
            second and third call and needs two rounds of warm-up.
        cold: Compile with empty caches. Otherwise torch uses what it finds on disk, and the time of
            the first call is that of a program that may have been run before.

    Returns:
        A record for each target and variant, in this order, with the keys of ``Measurement``.

    Raises:
        ValueError: If there is nothing to measure, a variant is named twice, or the inputs have no
            batch.

    Example:
        >>> (record,) = measure(torch.nn.Linear(8, 2), torch.ones(4, 8), [Variant()])
        >>> record["variant"], record["batch"], record["max_relative_error"], record["error"]
        ('eager float32', 4, 0.0, None)
    """
    named = targets if isinstance(targets, Mapping) else {_name(targets): targets}
    _check(named, variants)
    batch, tokens = batch_and_tokens(inputs)
    contestants = [Contestant(t, named[t], v) for t in named for v in variants]
    try:
        setting = Setting(inputs, usable(device), loss if training else None, cold)
    except ValueError as error:
        for contestant in contestants:
            contestant.error = one_line(error)
    else:
        _run(contestants, named, setting, rounds)
    return records_of(contestants, str(device), training, batch, tokens)


def _name(target: Target) -> str:
    if isinstance(target, torch.nn.Module):
        return type(target).__name__
    return getattr(target, "__name__", type(target).__name__)


def _check(targets: Mapping[str, Target], variants: Sequence[Variant]) -> None:
    if not targets or not variants:
        raise InputValueError("measure: give at least one target and one variant.")
    if twice := {str(v) for v in variants if list(variants).count(v) > 1}:
        raise InputValueError(f"measure: variants name {', '.join(sorted(twice))} more than once.")


def _run(
    contestants: Sequence[Contestant],
    targets: Mapping[str, Target],
    setting: Setting,
    rounds: Rounds,
) -> None:
    with current(setting.device), room_for(len(contestants)), ExitStack() as until_the_end:
        references = {name: reference_result(target, setting) for name, target in targets.items()}
        for contestant in contestants:
            contestant.prepare(setting, until_the_end)
        running = {str(n): c for n, c in enumerate(contestants) if c.error is None}
        for n, times_ms in alternate(running, rounds).items():
            running[n].times_ms = times_ms
        for contestant in running.values():
            contestant.inspect(setting, references[contestant.name])
