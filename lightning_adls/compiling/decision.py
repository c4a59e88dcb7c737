"""Whether compiling earns within a training what it costs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightning_adls.compiling.machines import Machine, key_of
from lightning_adls.compiling.regions import repeated_blocks
from lightning_adls.layers import formats_of

# Rough, for two cores; docs/performance.md says where they come from, and benchmarks/compiling.py
# measures them. Seconds to start the compiler and for each kind of layer, by whether its graphs are
# kept on disk.
START_SECONDS = {"cold": 15.0, "warm": 5.0}
SECONDS_PER_KIND = {"cold": 30.0, "warm": 5.0}
# Share of an eager step that compiling saves, by the format that rounds; of
# the others, it is that of block formats.
SAVED_WITHOUT_FORMAT = 0.03
SAVED = {
    "Integer": 0.04,
    "MinifloatIEEE": 0.06,
    "MinifloatDenorm": 0.06,
    "Log": 0.08,
    "BlockLog": 0.07,
    "Binary": 0.15,
    "Ternary": 0.16,
    "ResidualSign": 0.03,
    "LearnedInteger": 0.23,
}
SAVED_OTHERS = 0.12
# A step of training takes as long as so many of its matrix products.
STEP_PER_PRODUCTS = 2.0


@dataclass(frozen=True)
class Decision:
    """What was decided, and why in one line.

    Attributes:
        compile: ``layers``, or false to run eagerly.
        reason: The estimate, in words.
    """

    compile: Literal["layers", False]
    reason: str


def decide(model: nn.Module, steps: float, tokens: int, kind: str, machine: Machine) -> Decision:
    """Compile the repeated layers if that saves more seconds than it costs, by an estimate.

    A step is estimated to be ``6 * tokens`` operations for each weight that is multiplied with
    (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), at the machine's measured speed. The share
    of it that compiling saves and what compiling costs are constants for two cores, rough on other
    machines. Nothing is timed here: the same arguments give the same decision.

    Args:
        model: The network, with its formats.
        steps: Batches of the training that are still to come, 0 or more, or infinity.
        tokens: Of a batch, padding included.
        kind: See :func:`lightning_adls.compiling.machines.key_of`.
        machine: Where the training runs.

    Example:
        >>> from lightning_adls import bert
        >>> network = bert(vocab_size=9, hidden_size=64)
        >>> decide(network, 100, 4096, "32-true", Machine(1e11, frozenset())).compile
        False
    """
    kinds = {str(block) for block in repeated_blocks(model)}
    if not kinds:
        return Decision(False, "eager, there are no repeated layers to compile")
    layers = list(_multiplied(model))
    weights = sum(size for size, _ in layers)
    step = STEP_PER_PRODUCTS * 6 * weights * tokens / machine.flops_per_second
    share = sum(size * saved for size, saved in layers) / weights
    cache = "warm" if key_of(model, kind) in machine.compiled else "cold"
    cost = START_SECONDS[cache] + len(kinds) * SECONDS_PER_KIND[cache]
    gain = steps * step * share
    chosen: Literal["layers", False] = "layers" if gain > cost else False
    return Decision(
        chosen,
        f"{chosen or 'eager'}, {steps:g} steps save {gain:.1f} s ({100 * share:.0f} % of "
        f"{1000 * step:.0f} ms each) and compiling costs {cost:.1f} s ({cache} cache)",
    )


def _multiplied(model: nn.Module) -> Iterator[tuple[int, float]]:
    """Of each layer, the weights that a token is multiplied with, and the share that is saved.

    Those are all matrices but tables that are looked up; the slower of a layer's formats counts.
    """
    for module in model.modules():
        matrices = [p for p in module.parameters(recurse=False) if p.ndim >= 2]
        if not matrices or isinstance(module, nn.Embedding):
            continue
        formats = formats_of(module)
        saved = [
            SAVED.get(type(fmt).__name__, SAVED_OTHERS)
            for fmt in (formats.input, formats.weight)
            if fmt is not None
        ]
        yield sum(p.numel() for p in matrices), max(saved, default=SAVED_WITHOUT_FORMAT)
