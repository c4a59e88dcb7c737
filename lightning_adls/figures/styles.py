"""Colours, markers and lines: the same for the same thing in all figures.

The colours are those of Okabe and Ito (2008), "Color Universal Design", which people with each kind
of colour blindness tell apart; their yellow is left out, because it is too pale on white.
"""

from collections.abc import Iterable
from typing import NamedTuple

BLACK, ORANGE, SKY = "#000000", "#E69F00", "#56B4E9"
GREEN, BLUE, VERMILLION, PURPLE = "#009E73", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#707070"


class Style(NamedTuple):
    """How one thing is drawn: colour, marker and line as matplotlib writes them."""

    color: str
    marker: str
    line: str


# The members of a family have its colour, and differ in marker and line.
FORMATS = {
    "Full": Style(BLACK, "o", "-"),
    "float32": Style(BLACK, "o", "-"),
    "Integer": Style(BLUE, "s", "-"),
    "LearnedInteger": Style(BLUE, "p", "--"),
    "Minifloat": Style(ORANGE, "^", "-"),
    "MinifloatIEEE": Style(ORANGE, "^", "--"),
    "MinifloatDenorm": Style(ORANGE, "<", ":"),
    "Block": Style(GREEN, "D", "-"),
    "BlockFP": Style(GREEN, "D", "--"),
    "BlockMinifloat": Style(GREEN, "d", ":"),
    "BlockLog": Style(GREEN, "H", "-."),
    "Log": Style(SKY, "v", "-"),
    "MXInt": Style(VERMILLION, "P", "-"),
    "MXFP": Style(VERMILLION, "X", "--"),
    "Binary": Style(PURPLE, "*", "-"),
    "BinaryScaling": Style(PURPLE, "h", "--"),
    "BinaryResidualSign": Style(PURPLE, "8", ":"),
    "ResidualSign": Style(PURPLE, "8", ":"),
    "ElasticBinary": Style(PURPLE, "p", "-."),
    "Ternary": Style(PURPLE, ">", "-."),
    "Mixed": Style(GREY, "o", "--"),
}
# For what is no format, in the order of the figure.
OTHERS = (
    Style(BLUE, "o", "-"),
    Style(VERMILLION, "s", "-"),
    Style(GREEN, "^", "-"),
    Style(ORANGE, "D", "-"),
    Style(PURPLE, "v", "-"),
    Style(SKY, "P", "-"),
    Style(BLACK, "X", "-"),
)


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name: that of a format, or else by its place among the others.

    Example:
        >>> styles(["Log", "MXInt"])["MXInt"] == styles(["MXInt"])["MXInt"]
        True
    """
    names = list(dict.fromkeys(names))
    others = [name for name in names if name not in FORMATS]
    return {name: FORMATS.get(name) or _other(others.index(name)) for name in names}


def _other(place: int) -> Style:
    turn, at = divmod(place, len(OTHERS))
    return OTHERS[at]._replace(line=("-", "--", ":", "-.")[turn % 4])
