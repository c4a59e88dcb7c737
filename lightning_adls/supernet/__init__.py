"""One training for all recipes of a space, and what is taken out of it."""

from lightning_adls.supernet.batch_norm import recalibrate_batch_norm
from lightning_adls.supernet.racing import Raced, race, rows_loss, rows_right
from lightning_adls.supernet.recipes import draw, largest, smallest
from lightning_adls.supernet.subnetworks import Finished, Subnetworks, finish
from lightning_adls.supernet.switching import Supernet, extract, make_supernet
from lightning_adls.supernet.training import SupernetTraining

__all__ = [
    "Finished",
    "Raced",
    "Subnetworks",
    "Supernet",
    "SupernetTraining",
    "draw",
    "extract",
    "finish",
    "largest",
    "make_supernet",
    "race",
    "recalibrate_batch_norm",
    "rows_loss",
    "rows_right",
    "smallest",
]
