"""What computes: the arithmetic that a recipe asks for by its backend's name.

A backend is a function ``(layer, formats)`` that makes a quantised layer on the parameters of
``layer``. To add one: such a function, and here its name with what imports it.
"""

from collections.abc import Callable

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.kinds import quantized
from lightning_adls.layers.layer_formats import LayerFormats
from lightning_adls.layers.quantized_layer import QuantizedLayer

Build = Callable[[nn.Module, LayerFormats], QuantizedLayer]


def _standard() -> Build:
    return quantized


# These are imported when they are asked for: MASE is for few, and MASE's package is for fewer.


def _mase() -> Build:
    from lightning_adls.layers.mase.linear import mase_layer

    return mase_layer


def _chop() -> Build:
    from lightning_adls.layers.mase.chop import chop_layer

    return chop_layer


BACKENDS: dict[str, Callable[[], Build]] = {"standard": _standard, "mase": _mase, "chop": _chop}


def builder(backend: str) -> Build:
    """What makes quantised layers that compute with ``backend``.

    Raises:
        ValueError: If there is no such backend.
        ImportError: If it needs a package that is not installed.
    """
    if backend not in BACKENDS:
        raise InputValueError(f"backend={backend!r} is unknown; there are {', '.join(BACKENDS)}.")
    return BACKENDS[backend]()
