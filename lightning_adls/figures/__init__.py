"""Figures for screen and paper: each is written as PNG, 200 dots per inch, and as PDF.

What draws gives a :class:`Picture`, which a notebook shows.
"""

from lightning_adls.figures.bars import draw_bars
from lightning_adls.figures.canvas import Level, Levels
from lightning_adls.figures.confusion import draw_confusions
from lightning_adls.figures.front import Candidate, draw_front
from lightning_adls.figures.heat import draw_heat_map
from lightning_adls.figures.importances import draw_importances
from lightning_adls.figures.maps import draw_format_map
from lightning_adls.figures.picture import Picture
from lightning_adls.figures.points import Point, draw_points
from lightning_adls.figures.steps import Span, Stairs, draw_steps

__all__ = [
    "Candidate",
    "Level",
    "Levels",
    "Picture",
    "Point",
    "Span",
    "Stairs",
    "draw_bars",
    "draw_confusions",
    "draw_format_map",
    "draw_front",
    "draw_heat_map",
    "draw_importances",
    "draw_points",
    "draw_steps",
]
