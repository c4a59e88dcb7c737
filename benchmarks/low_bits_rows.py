"""The rows of the table of low_bits.py: what each rounds its linear layers to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FLOAT32 = "float32"
WIDTHS = range(2, 9)
BUDGETS = (3.25, 4.0, 5.0)


@dataclass(frozen=True)
class Row:
    """What is trained.

    Args:
        name: Of the row.
        family: Of rows that differ in their bits alone.
        formats: Of the inputs and weights of all linear layers; None leaves float32.
        planned_bits: Bits per weight that a plan may spend, in the place of ``formats``.
        picked_bits: Those that a search within one shared training may spend, likewise.
    """

    name: str
    family: str
    formats: Mapping[str, str] | None = None
    planned_bits: float | None = None
    picked_bits: float | None = None


def formats_of_width(width: int) -> dict[str, str]:
    """What a plan may give a layer: the same width for its input and its weight."""
    return _both(f"MXInt(width={width})")


def _both(fmt: str) -> dict[str, str]:
    return {"input": fmt, "weight": fmt}


def _rows() -> Iterator[Row]:
    yield Row(FLOAT32, FLOAT32)
    for width in (8, 6, 4, 3, 2):
        yield Row(f"MXInt{width}", "MXInt", formats_of_width(width))
    for bits, exponent, mantissa in ((6, 3, 2), (6, 2, 3), (4, 2, 1)):
        fmt = f"MXFP(exponent_width={exponent}, mantissa_width={mantissa})"
        yield Row(f"MXFP{bits}-E{exponent}M{mantissa}", "MXFP", _both(fmt))
    for width in (8, 4, 3, 2):
        fmt = f"LearnedInteger(width={width})"
        yield Row(f"LearnedInteger{width}", "LearnedInteger", _both(fmt))
    ternary, binary = "Ternary(scale=per_channel)", "Binary(scale=per_channel)"
    for name, weight, bits in (
        ("Ternary", ternary, 8),
        ("Binary", binary, 8),
        ("Binary", binary, 4),
    ):
        formats = {"input": f"MXInt(width={bits})", "weight": weight}
        yield Row(f"{name}-{bits}", f"{name}, {bits}-bit inputs", formats)
    elastic = {"input": "ElasticBinary", "weight": binary}
    yield Row("Binary-1", "Binary, 1-bit inputs", elastic)
    for budget in BUDGETS:
        yield Row(f"planned-{budget:g}", "MXInt, planned", planned_bits=budget)
    for budget in BUDGETS:
        yield Row(f"one-shot-{budget:g}", "MXInt, one-shot", picked_bits=budget)


ROWS = {row.name: row for row in _rows()}
