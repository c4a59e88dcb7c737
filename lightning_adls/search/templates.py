"""Templates of number formats, and the formats that they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.formats.text import split_text

Value = int | float | str | tuple[int, ...] | None


def expand(template: str, ranges: Mapping[str, Sequence[Value]]) -> tuple[str, ...]:
    """All formats that a template stands for, as text.

    Args:
        template: A format, ``"Integer"`` or ``"Binary(scale=per_channel)"``. A parameter that it
            does not fix takes each value of its range, or its default where it has no range.
        ranges: Values by parameter (``width``), or for one format alone (``MXFP.width``), which
            takes precedence. A tile is a tuple.

    Raises:
        ValueError: If the format or a parameter of it is not known, or no combination is valid.

    Example:
        >>> expand("Integer(frac_width=2)", {"width": [4, 8]})
        ('Integer(width=4, frac_width=2)', 'Integer(width=8, frac_width=2)')
    """
    fmt, given = split_text(template, NumberFormat.classes)
    found, error = _combine(fmt, given, ranges)
    if not found:
        raise InputValueError(
            f"FormatSpace: no combination of the ranges makes a {template}: {error}"
        )
    return tuple(dict.fromkeys(map(str, found)))


def _combine(
    fmt: type[NumberFormat], given: Mapping[str, Any], ranges: Mapping[str, Sequence[Value]]
) -> tuple[list[NumberFormat], ValueError | None]:
    """All formats of a class that can be, and why the last of the others cannot."""
    searched = {
        field.name: values
        for field in fields(fmt)
        if field.name not in given
        and (values := ranges.get(f"{fmt.__name__}.{field.name}", ranges.get(field.name)))
    }
    found: list[NumberFormat] = []
    error: ValueError | None = None
    for values in product(*searched.values()):
        try:
            chosen: dict[str, Any] = dict(zip(searched, values, strict=True))
            found.append(fmt(**given, **chosen))
        except ValueError as refused:
            # A combination that cannot be, as 4 exponent bits in 4 bits, is no choice.
            error = refused
    return found, error


def check_ranges(ranges: Mapping[str, Sequence[Value]]) -> None:
    """Refuse ranges and values that no format would ever use.

    Raises:
        ValueError: If a range is empty, its name is no parameter of a format, or one of its values
            is valid in no format.
    """
    takers = {name: _takers(name) for name in ranges}
    for name, values in ranges.items():
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InputValueError(
                f"FormatSpace: ranges: {name}={values!r} is not a list of values."
            )
    for name, values in ranges.items():
        parameter = name.rpartition(".")[2]
        for value in values:
            tries = [_combine(fmt, {parameter: value}, ranges) for fmt in takers[name]]
            if not any(found for found, _ in tries):
                raise InputValueError(
                    f"FormatSpace: ranges: no format takes {name}: {tries[-1][1]}"
                )


def _takers(name: str) -> list[type[NumberFormat]]:
    """The formats that a range is about."""
    owner, _, parameter = name.rpartition(".")
    owners = [fmt for fmt in NumberFormat.classes.values() if owner in ("", fmt.__name__)]
    takers = [fmt for fmt in owners if parameter in {field.name for field in fields(fmt)}]
    if not takers:
        known = {field.name for fmt in owners for field in fields(fmt)}
        raise InputValueError(
            f"FormatSpace: ranges: {name!r} is no parameter of {owner or 'any format'}; "
            f"there are {sorted(known) or sorted(NumberFormat.classes)}."
        )
    return takers
