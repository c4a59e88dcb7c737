"""Numbers that are read from tensors in the middle of a computation, on the CPU alone.

There it waits for nothing, and formats that know a number do with fewer passes. A GPU would have to
finish all that was asked of it before.
"""

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.jit._trace import is_tracing


def is_readable(x: Tensor) -> bool:
    """Whether ``x`` lies on the CPU with its values, and nothing records what they decide."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not is_tracing()
        and not isinstance(x, FakeTensor)
    )


def is_finite(x: Tensor) -> bool:
    """Whether ``x`` is readable and its sum finite, so that all of it is."""
    return is_readable(x) and math.isfinite(x.sum().item())


def next_outside(x: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[float, float]:
    """The floats of the dtype of ``x`` next below ``low`` and above ``high``, each a number."""
    bounds = torch.tensor((float(low), float(high)), dtype=x.dtype)
    below, above = bounds.nextafter(bounds.new_tensor((-math.inf, math.inf))).tolist()
    return below, above
