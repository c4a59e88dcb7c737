"""What the first calls cost: compiling, and compiling again for other sizes."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_adls.bench.instruments.graphs import count_graphs
from lightning_adls.bench.instruments.timing import Rounds, time_ms
from lightning_adls.bench.workloads.compiler_state import cold_cache
from lightning_adls.bench.workloads.devices import current, usable
from lightning_adls.bench.workloads.inputs import Inputs
from lightning_adls.bench.workloads.steps import ForwardStep, Target, passes_over
from lightning_adls.bench.workloads.variants import Variant


def first_calls(
    target: Target,
    inputs: Inputs,
    variant: Variant,
    *,
    calls: int,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The measurement that misleads: the mean of a few calls, the first of which compiles.

    Args:
        target: A module or a function.
        inputs: What to call it with.
        variant: How to run it.
        calls: How many calls, 1 or more.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``first_call_ms`` and, over all calls, ``mean_ms``.

    Raises:
        ValueError: If there is no such device, or torch does not know what the variant names.
    """
    variant.check()
    torch.compiler.reset()
    place = usable(device)
    step = ForwardStep(target, variant, inputs, place)
    with cold_cache(), current(place):
        times_ms = time_ms(step, Rounds(timed=calls, warmup=0))
    return {"first_call_ms": times_ms[0].item(), "mean_ms": times_ms.mean().item()}


def over_sizes(
    target: nn.Module,
    inputs: Sequence[Inputs],
    variant: Variant,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Call one compiled module with inputs of several sizes, again and again; count the graphs.

    Args:
        target: Run in eval mode without gradients; a copy of it.
        inputs: One for each call.
        variant: How to run it.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``graphs`` and ``graph_breaks``, ``first_pass_ms`` over all sizes, compilation included, and
        ``later_pass_ms``, the median of ten more passes over the same sizes.

    Raises:
        ValueError: If there is no such device, or torch does not know what the variant names.
        RuntimeError: If there are more sizes than torch compiles a function for, 8 by default: it
            would run the others eagerly.
    """
    variant.check()
    place = usable(device)
    torch.compiler.reset()
    all_sizes = passes_over(target, inputs, variant, place)
    times_ms = torch.empty(0)

    def all_passes() -> None:
        nonlocal times_ms
        times_ms = time_ms(all_sizes, Rounds(timed=11, warmup=0))

    refusing = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
    with cold_cache(), current(place), refusing:
        try:
            found = count_graphs(all_passes)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            limit = torch._dynamo.config.recompile_limit
            raise RuntimeError(
                f"torch compiles a function for {limit} sizes at most "
                "(torch._dynamo.config.recompile_limit) and runs it eagerly for others"
            ) from error
    return {
        "graphs": found.graphs,
        "graph_breaks": len(found.breaks),
        "first_pass_ms": times_ms[0].item(),
        "later_pass_ms": times_ms[1:].median().item(),
    }
