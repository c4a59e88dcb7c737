"""Checks of format parameters. They come from YAML and command lines, so kinds are checked too."""

from collections.abc import Sequence

from lightning_adls.errors import InputValueError


def _refuse(owner: object, name: str, wrong: str, right: str) -> InputValueError:
    value = getattr(owner, name)
    return InputValueError(f"{type(owner).__name__}: {name}={value!r} {wrong}; {right}.")


def check_integer(
    owner: object, name: str, low: int, high: int, hint: str = "", *, optional: bool = False
) -> None:
    """Refuse field ``name`` of ``owner`` unless it is an integer in ``low..high``.

    Args:
        owner: The format being constructed.
        name: Field to check.
        low: Smallest value allowed.
        high: Largest value allowed.
        hint: Why the bounds are what they are, or what to use instead.
        optional: Whether None is allowed as well.
    """
    value = getattr(owner, name)
    if optional and value is None:
        return
    if type(value) is not int:
        kind = type(value).__name__
        raise _refuse(owner, name, f"is a {kind}", f"an integer in {low}..{high} is needed")
    if not low <= value <= high:
        raise _refuse(owner, name, f"is not in {low}..{high}", hint or "choose a value in range")


def check_choice(owner: object, name: str, allowed: Sequence[str | bool]) -> None:
    """Refuse field ``name`` of ``owner`` unless it is one of ``allowed``."""
    value = getattr(owner, name)
    # The kind as well: 1 == True, and a YAML file that says 1 does not mean True.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        choices = " or ".join(repr(choice) for choice in allowed)
        raise _refuse(owner, name, "is not a choice", f"use {choices}")


def check_fraction(owner: object, name: str) -> None:
    """Refuse field ``name`` of ``owner`` unless it is a number, at least 0 and below 1."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(owner, name, f"is a {type(value).__name__}", "a number is needed")
    if not 0 <= value < 1:
        raise _refuse(owner, name, "is not in 0 <= value < 1", "choose a value in range")


def check_block_size(owner: object, value: object) -> None:
    """Refuse a ``block_size`` other than a number of elements or two, (rows, columns).

    Each is positive, or -1 for a whole dimension.
    """
    sizes = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(type(size) is int and (size >= 1 or size == -1) for size in sizes):
        right = (
            "use elements along the last dimension, as 16, or a tile (rows, columns); -1 is a "
            "whole dimension"
        )
        raise _refuse(owner, "block_size", "is not a block", right)


def check_mantissa(owner: object, exponent_width: int, width: int) -> None:
    """Refuse the exponent if it and the sign leave no bit of ``width`` for a mantissa."""
    if exponent_width > width - 2:
        wrong = f"leaves no mantissa bit in width={width}"
        raise _refuse(owner, "exponent_width", wrong, f"use at most {width - 2}")
