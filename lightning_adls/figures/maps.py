"""A map of number formats: a row for each layer, a column for each of its tensors."""

import re
from collections.abc import Mapping
from pathlib import Path

from lightning_adls.figures.canvas import figure, text_width
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import GREY, styles

TENSORS = ("input", "weight", "bias")
_FONT = 7.5  # points


def draw_format_map(
    path: str | Path,
    formats: Mapping[str, Mapping[str, str | None] | None],
    *,
    title: str,
    subtitle: str = "",
) -> Picture:
    """Draw the formats of a model, in the colour of their family.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        formats: By layer, a format in text form for each of ``input``, ``weight`` and ``bias``;
            None, or nothing, for full precision. A recipe's ``to_dict()`` has it.
        title: Above the figure.
        subtitle: Below the title.
    """
    from matplotlib.patches import Rectangle

    texts = [of_layer or {} for of_layer in formats.values()]
    names = dict.fromkeys(family(f.get(tensor)) for f in texts for tensor in TENSORS)
    looks = styles(names)
    cell = text_width((in_short(f.get(tensor)) for f in texts for tensor in TENSORS), _FONT)
    names_of_layers = text_width(map(short_layer, formats), _FONT)
    wide = names_of_layers + len(TENSORS) * (cell + 0.2) + 0.2
    size = (max(9.5, wide), 1.3 + 0.3 * len(formats))
    with figure(path, title, subtitle, size=size) as (axes,):
        for row, of_layer in enumerate(texts):
            for column, tensor in enumerate(TENSORS):
                text = of_layer.get(tensor)
                color = looks[family(text)].color
                alpha = 0.12 if text is None else 0.3
                axes.add_patch(Rectangle((column, row), 1, 1, color=color, alpha=alpha, lw=0))
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    in_short(text),
                    ha="center",
                    va="center",
                    fontsize=_FONT,
                    color=GREY if text is None else "black",
                )
        axes.set_xticks([n + 0.5 for n in range(len(TENSORS))], TENSORS)
        axes.set_yticks(
            [n + 0.5 for n in range(len(formats))],
            [short_layer(name) for name in formats],
            fontsize=_FONT,
        )
        axes.set(xlim=(0, len(TENSORS)), ylim=(len(formats), 0))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for n in range(1, max(len(formats), 1)):
            axes.axhline(n, color="white", linewidth=1.5)
        for n in range(1, len(TENSORS)):
            axes.axvline(n, color="white", linewidth=1.5)
    return Picture(Path(path).with_suffix(".png"))


def family(text: str | None) -> str:
    """Name of a format, ``Full`` for full precision.

    Example:
        >>> family("Integer(width=8, frac_width=4)"), family(None)
        ('Integer', 'Full')
    """
    return "Full" if text is None else text.partition("(")[0]


def short_layer(name: str) -> str:
    """The name of a layer without what is the same for all of them.

    Example:
        >>> short_layer("bert.encoder.layer.0.attention.self.query")
        'layer 0 attention.self.query'
        >>> short_layer("*")
        'every layer'
    """
    if name == "*":
        return "every layer"
    return re.sub(r"^.*?\.(?:layers?|h)\.(\d+)\.", r"layer \1 ", name)


def in_short(text: str | None) -> str:
    """A format without the names of what every one has.

    Example:
        >>> in_short("Integer(width=8, frac_width=4)")
        'Integer 8 bits, frac 4'
    """
    if text is None:
        return "full precision"
    name, _, arguments = text.removesuffix(")").partition("(")
    words = []
    for argument in filter(None, arguments.split(", ")):
        key, _, value = argument.partition("=")
        if key == "width":
            words.append(f"{value} bits")
        elif "=" in argument:
            words.append(f"{_SHORT.get(key, key.removesuffix('_width'))} {value}")
        else:
            words[-1] += f", {argument}"  # the rest of a tuple
    return f"{name} {', '.join(words)}".strip()


_SHORT = {
    "block_size": "block",
    "exponent_bias": "bias",
    "exponent_bias_width": "bias bits",
    "exponent_width": "exp.",
}
