"""What compressed-tensors can say of a layer: its arguments, and the scales that belong to them.

https://github.com/vllm-project/compressed-tensors. An integer of ``b`` bits lies in
``-2**(b-1)..2**(b-1) - 1`` and stands for ``(q - zero_point) * scale``; a float of 8, 6 or 4 bits
is an E4M3, E2M3 or E2M1 of OCP, and 32 of them share a power of two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_adls.formats import (
    MXFP,
    BlockFP,
    ElasticBinary,
    Integer,
    LearnedInteger,
    MXInt,
    NumberFormat,
    Ternary,
)
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import block_count, tile
from lightning_adls.formats.floats import power_of_two
from lightning_adls.kernels.bits import unpack_bits
from lightning_adls.kernels.coded import Coded
from lightning_adls.kernels.coded_shapes import shared_bits
from lightning_adls.layers import QuantizedLayer
from lightning_adls.layers.packed import PackedLinear

Arguments = dict[str, Any]

_MOST_BITS = 8  # of an integer that the library packs
_MX_GROUP = 32
_MX_ELEMENTS = ((4, 3), (2, 3), (2, 1))  # bits of exponent and mantissa
_MX_LAYOUTS = {8: "mxfp8-quantized", 6: "mxfp6-pack-quantized", 4: "mxfp4-pack-quantized"}


class UnwritableError(Exception):
    """Why the library has no scheme for a layer, in the middle of a sentence."""


@dataclass(frozen=True)
class Scheme:
    """How the library describes a layer.

    Args:
        weights: Arguments of its ``QuantizationArgs`` for the weight; None if it is not rounded.
        inputs: Likewise for the input.
        layout: How the weight is stored, which the library calls ``format``.
    """

    weights: Arguments | None
    inputs: Arguments | None
    layout: str

    def to_dict(self) -> Arguments:
        """A ``QuantizationScheme`` without its targets, as JSON holds it."""
        return {
            "weights": self.weights,
            "input_activations": self.inputs,
            "output_activations": None,
            "format": self.layout,
        }


def scheme_of(layer: QuantizedLayer, approximate_inputs: bool) -> Scheme | None:
    """The scheme of a layer; None if it rounds neither its input nor its weight.

    Args:
        layer: Of a network of Transformers.
        approximate_inputs: Whether the library may round some inputs to other values than the
            layer does.

    Raises:
        UnwritableError: If the library has none; it says why in the middle of a sentence.
    """
    # The library has schemes for embeddings, but Transformers fails to load what has one.
    if layer.kind != "Linear":
        raise UnwritableError(f"a quantised {layer.kind}")
    if layer.backend != "standard":
        raise UnwritableError(f"backend={layer.backend}")
    if layer.scales_by_format is not None:
        raise UnwritableError("it is switched between formats")
    if layer.input_sparsity:
        raise UnwritableError(f"input_sparsity={layer.input_sparsity}")
    columns = layer.weight.shape[-1]
    inputs, stored = None, None
    reasons: list[str] = []
    if layer.enabled and (fmt := layer.formats.input) is not None:
        try:
            inputs = _input_arguments(fmt, columns, approximate_inputs)
            if (fitted := layer.fitted_of("input")) is not None and not fitted > 0:
                raise UnwritableError("its scales are not fitted yet")
        except UnwritableError as error:
            reasons.append(f"input={fmt}: {error}")
    if (weight := weight_format(layer)) is not None:
        try:
            stored = _weight_arguments(weight, columns)
        except UnwritableError as error:
            reasons.append(f"weight={weight}: {error}")
    if reasons:
        raise UnwritableError("; ".join(reasons))
    if stored is None:
        return None if inputs is None else Scheme(None, inputs, "dense")
    if stored["type"] == "float":
        return Scheme(stored, inputs, _MX_LAYOUTS[stored["num_bits"]])
    # Whole bytes are for products of integers.
    whole = stored["num_bits"] == 8 and inputs is not None and inputs["type"] == "int"
    return Scheme(stored, inputs, "int-quantized" if whole else "pack-quantized")


def weight_format(layer: QuantizedLayer) -> NumberFormat | None:
    """What the weight of a layer is rounded to; None if it is not."""
    # A packed layer multiplies with what is packed, whether or not it rounds its input.
    return layer.formats.weight if layer.enabled or isinstance(layer, PackedLinear) else None


def _weight_arguments(fmt: NumberFormat, columns: int) -> Arguments:
    match fmt:
        case MXFP():
            return _mx_arguments(fmt, columns)
        case Integer() | LearnedInteger():
            return _integer(fmt.width, "tensor", fmt.signed)
        case Ternary():
            return _integer(2, "channel" if fmt.scale == "per_channel" else "tensor")
        case ElasticBinary(signed=False):
            return _integer(1, "tensor", signed=False)
        case MXInt() | BlockFP():
            size = _tile(fmt, columns)[1]
            if size == columns:
                return _integer(fmt.width, "channel")
            if columns % size:
                raise UnwritableError(f"rows of {columns} are no multiple of its blocks")
            return {**_integer(fmt.width, "group"), "group_size": size}
    raise UnwritableError("neither integers times a scale nor elements of MX")


def _integer(width: int, strategy: str, signed: bool = True) -> Arguments:
    if width > _MOST_BITS:
        raise UnwritableError(f"integers have at most {_MOST_BITS} bits")
    return {
        "num_bits": width,
        "type": "int",
        "symmetric": signed,
        "strategy": strategy,
        "dynamic": False,
    }


def _mx_arguments(fmt: MXFP, columns: int) -> Arguments:
    if (fmt.exponent_width, fmt.mantissa_width) not in _MX_ELEMENTS:
        raise UnwritableError("its elements are none of E4M3, E2M3 and E2M1")
    if columns % _MX_GROUP or _tile(fmt, columns)[1] % _MX_GROUP:
        raise UnwritableError(
            f"rows of {columns} in blocks of {fmt.block_size} have no groups of 32"
        )
    return {
        "num_bits": fmt.code_bits,
        "type": "float",
        "symmetric": True,
        "strategy": "group",
        "group_size": _MX_GROUP,
        "dynamic": False,
        "scale_dtype": "torch.uint8",
    }


def _tile(fmt: BlockFormat, columns: int) -> tuple[int, int]:
    """Rows and columns of a block within rows of so many columns."""
    rows, size = tile((1, columns), fmt.block_size)
    return rows, min(size, columns)


def _input_arguments(fmt: NumberFormat, columns: int, approximate: bool) -> Arguments:
    match fmt:
        case Integer(rounding="nearest") | LearnedInteger():
            if not (fmt.signed or approximate):
                raise UnwritableError(
                    "the library adds a zero point before it rounds, which moves what is next to a "
                    "tie, and approximate_inputs=True permits"
                )
            return _integer(fmt.width, "tensor", fmt.signed)
        case MXFP():
            arguments = _mx_arguments(fmt, columns)
            if _tile(fmt, columns) != (1, _MX_GROUP):
                raise UnwritableError(f"blocks of {fmt.block_size} are not groups of 32")
            if not approximate:
                raise UnwritableError(
                    "the library doubles the scale of blocks whose largest value is near the next "
                    "power of two, which approximate_inputs=True permits"
                )
            return {**arguments, "dynamic": True}
    raise UnwritableError("the library does not round inputs so")


def input_scale(layer: QuantizedLayer) -> Tensor:
    """What the codes of an input of integers are multiplied with, float32, shape ``(1,)``."""
    fmt, scales = layer.formats.input, layer.scales_of("input")
    if isinstance(fmt, Integer):
        return torch.tensor([2.0**-fmt.frac_width])
    assert fmt is not None
    assert scales is not None
    step = fmt.encode(torch.zeros(1, device=scales.device), scales.detach()).shared
    assert step is not None
    return step


def zero_point(arguments: Mapping[str, Any]) -> Tensor | None:
    """What is subtracted from a code, int8, shape ``(1,)``; None if nothing is.

    Unsigned integers begin at the least code.
    """
    if arguments["symmetric"]:
        return None
    return torch.tensor([-(2 ** (arguments["num_bits"] - 1))], dtype=torch.int8)


def weight_scale(coded: Coded, arguments: Mapping[str, Any]) -> Tensor:
    """What the codes of a weight are multiplied with.

    Args:
        coded: The weight.
        arguments: Of a scheme for its format.

    Returns:
        float32 or float64, shape ``(1,)`` for a tensor, ``(rows, 1)`` for channels and ``(rows,
        groups)`` for groups.
    """
    fmt, shared = coded.shapes.format, coded.shared
    rows, columns = coded.shapes.shape
    if isinstance(fmt, Integer):
        return torch.tensor([2.0**-fmt.frac_width])
    if isinstance(fmt, BlockFormat):
        assert shared is not None
        size = columns if arguments["strategy"] == "channel" else arguments["group_size"]
        return _block_scales(fmt, shared, (rows, columns), size)
    if shared is None:
        return torch.ones(1)
    return shared.reshape(-1, 1) if arguments["strategy"] == "channel" else shared.reshape(1)


def _block_scales(fmt: BlockFormat, shared: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """The scale of each group of so many columns."""
    rows, columns = shape
    down, across = tile(shape, fmt.block_size)
    codes = unpack_bits(shared, shared_bits(fmt), block_count(torch.Size(shape), fmt.block_size))
    exponents = codes.view(-(-rows // down), -(-columns // across)) + fmt.shared_range[0]
    match fmt:
        case MXInt():
            exponents += 2 - fmt.width
        case BlockFP():
            exponents += 1 - fmt.width
    scales = power_of_two(exponents, torch.float64).float()
    each_row = scales.repeat_interleave(down, 0)[:rows]
    return each_row.repeat_interleave(min(across, columns) // size, 1)
