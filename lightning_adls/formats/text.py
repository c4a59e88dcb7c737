"""The text form of a format, ``Integer(width=8, frac_width=4)``, and back."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from lightning_adls.errors import InputValueError, did_you_mean

T = TypeVar("T")


def _fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    # Keyword-only fields come from base classes, the most general first; said the other way round.
    fields = dataclasses.fields(cls)
    return [f for f in fields if not f.kw_only] + [f for f in reversed(fields) if f.kw_only]


def format_text(fmt: Any) -> str:
    """Write a format as text.

    Integers are always shown, other fields only where they differ from their default, so that
    two formats have the same text only if they are equal.
    """
    shown = []
    for field in _fields(type(fmt)):
        value = getattr(fmt, field.name)
        if type(value) is int or value != field.default:
            shown.append(f"{field.name}={value}")
    return f"{type(fmt).__name__}({', '.join(shown)})"


def parse_text(text: str, classes: Mapping[str, type[T]]) -> T:
    """Build the format that ``text`` describes, without evaluating any code.

    Args:
        text: A class name, alone or with parameters: ``Integer``, ``Integer(width=4)``.
        classes: The known formats by name.

    Raises:
        ValueError: If the text cannot be read, or a name or value in it is not known.
    """
    cls, arguments = split_text(text, classes)
    return cls(**arguments)


def split_text(text: str, classes: Mapping[str, type[T]]) -> tuple[type[T], dict[str, Any]]:
    """The class and the parameters that ``text`` names: a search fills in the others.

    Raises:
        ValueError: If the text cannot be read, or a name in it is not known.
    """
    name, arguments = _read(text)
    if name not in classes:
        raise InputValueError(
            f"format={name!r} is unknown{did_you_mean(name, classes) or ';'} known are "
            f"{', '.join(classes)}."
        )
    cls = classes[name]
    allowed = [field.name for field in _fields(cls)]
    for argument in arguments:
        if argument not in allowed:
            raise InputValueError(
                f"{name}: {argument}={arguments[argument]!r} is no parameter of this format"
                f"{did_you_mean(argument, allowed)}; it takes {', '.join(allowed)}."
            )
    return cls, arguments


def _read(text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            keywords = {str(k.arg): _value(k.value) for k in node.keywords if k.arg is not None}
            if len(keywords) == len(node.keywords):  # fewer where `**` was used
                return node.func.id, keywords
    except (AttributeError, SyntaxError, TypeError, ValueError):
        pass  # not a text, or not Python's grammar: said below, in the user's terms
    raise InputValueError(
        f"text={text!r} is not a format; write a name and its parameters, "
        "as in Integer(width=8, frac_width=4)."
    )


def _value(node: ast.expr) -> Any:
    # A bare word is a string: Binary(scale=per_channel).
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
