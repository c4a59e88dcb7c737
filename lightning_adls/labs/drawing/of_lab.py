"""Which lab has which figures."""

from lightning_adls.labs.drawing import lab0, lab1, lab2, lab3, lab4, own_lab
from lightning_adls.labs.drawing.drawn import Figure
from lightning_adls.labs.stored import StoredRun

_DRAW = {
    "lab0": lab0.draw,
    "lab1": lab1.draw,
    "lab2": lab2.draw,
    "lab3": lab3.draw,
    "lab4": lab4.draw,
}


def draw(run: StoredRun) -> list[Figure]:
    """Draw all figures of a run into its folder, from what it has written there alone.

    Returns:
        The figures, in the order of the lab's tasks.
    """
    return _DRAW.get(run.lab, own_lab.draw)(run)
