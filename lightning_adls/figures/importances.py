"""How much each choice of a search decided its value."""

from collections.abc import Mapping
from pathlib import Path

from lightning_adls.figures.canvas import figure, text_width
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.styles import styles

MOST = 12
_NAMES, _TITLES = 7, 9  # points


def draw_importances(
    path: str | Path,
    importances: Mapping[str, Mapping[str, float]],
    trials: Mapping[str, int],
    *,
    title: str,
    subtitle: str = "",
) -> Picture:
    """Draw the importances of each search as horizontal bars, a panel each, largest first.

    Args:
        path: Of the PNG file; the PDF lies beside it.
        importances: By search, shares by choice; the twelve largest are drawn.
        trials: By search, how many trials they are of.
        title: Above the figure.
        subtitle: Below the title.
    """
    looks = styles(importances)
    columns = min(len(importances), 2)
    most = max(min(len(found), MOST) for found in importances.values())
    titles = {name: f"{name}, {trials[name]} trials" for name in importances}
    names = text_width((key for found in importances.values() for key in found), _NAMES)
    across = columns * (names + max(2.8, text_width(titles.values(), _TITLES)) + 0.4)
    size = (max(9.5, across), 1.2 + (0.22 * most + 0.6) * -(-len(importances) // columns))
    with figure(
        path, title, subtitle, panels=len(importances), columns=columns, size=size, shared=False
    ) as axes:
        for one, (name, found) in zip(axes, importances.items(), strict=True):
            largest = sorted(found.items(), key=lambda item: -item[1])[:MOST]
            one.barh(
                [key for key, _ in largest],
                [value for _, value in largest],
                color=looks[name].color,
            )
            one.invert_yaxis()
            one.set_title(titles[name], fontsize=_TITLES)
            one.tick_params(axis="y", labelsize=_NAMES)
            one.tick_params(axis="x", labelsize=8)
            one.set_xlim(left=0)
            one.set_xlabel("share", fontsize=8)
            one.grid(alpha=0.3, axis="x")
    return Picture(Path(path).with_suffix(".png"))
