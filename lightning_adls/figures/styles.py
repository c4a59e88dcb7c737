"""Colours, markers and lines: the same for the same thing in all figures.

The colours are those of Okabe and Ito (2008), "Color Universal Design", which people with each kind
of colour blindness tell apart; their yellow is left out, because it is too pale on white.
"""

from collections.abc import Collection, Iterable
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


_LINES = ("-", "--", ":", "-.")


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name: that of a format, or else one that no other of the names has.

    In the order of the names, others get a colour that is still free; where none is, a colour with
    a line that it does not have yet, and at last with another marker.

    Example:
        >>> styles(["Log", "MXInt"])["MXInt"] == styles(["MXInt"])["MXInt"]
        True
        >>> [styles(names)["mine"].color == BLUE for names in (["mine"], ["mine", "Integer"])]
        [True, False]
    """
    names = list(dict.fromkeys(names))
    looks = {name: FORMATS[name] for name in names if name in FORMATS}
    for name in names:
        if name not in FORMATS:
            looks[name] = _unlike(looks.values())
    return {name: looks[name] for name in names}


def _unlike(taken: Collection[Style]) -> Style:
    colors, drawn = {style.color for style in taken}, {(style.color, style.line) for style in taken}
    every = [style._replace(line=line) for line in _LINES for style in OTHERS]
    free = [style for style in every if style.color not in colors]
    apart = [style for style in every if (style.color, style.line) not in drawn]
    unlike = [style for style in every if style not in taken]
    return [*free, *apart, *unlike, every[len(taken) % len(every)]][0]
