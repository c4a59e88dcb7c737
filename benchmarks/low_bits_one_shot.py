"""One training for all widths of all layers, and the recipes that a search picks from it."""

from collections.abc import Sequence
from math import inf

import optuna
import torch
from low_bits_rows import WIDTHS, formats_of_width
from optuna.samplers import TPESampler
from torch import Tensor

from lightning_adls import Quantize, TextClassifier
from lightning_adls.search import FormatSpace
from lightning_adls.supernet import Supernet, make_supernet
from lightning_adls.transforms.cost import bits_per_weight
from lightning_adls.transforms.walk import linear_layers

TRIALS = 200


def space_of(module: TextClassifier) -> FormatSpace:
    """A width for each linear layer, that of its input and its weight alike."""
    classes = {f"{width} bits": formats_of_width(width) for width in WIDTHS}
    return FormatSpace.from_templates(list(linear_layers(module)), classes, {})


def picked(
    module: TextClassifier, batches: Sequence[dict[str, Tensor]], budget: float, seed: int
) -> Quantize:
    """The recipe of least loss within a budget, by a search that trains nothing.

    Args:
        module: With the weights that all recipes were trained on.
        batches: To judge by, on the device of the module.
        budget: In bits per weight; some single width of all layers must be within it.
        seed: Of the search.
    """
    space = space_of(module)
    make_supernet(module, space)
    supernet = Supernet(module)
    module.eval()

    def judge(trial: optuna.Trial) -> float:
        recipe = space.suggest(trial)
        supernet.switch(recipe)
        over = bits_per_weight(module) - budget
        trial.set_constraint("bits_per_weight", over)
        if over > 0:
            return inf
        with torch.inference_mode():
            return float(torch.stack([module.loss(batch) for batch in batches]).mean())

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=TPESampler(seed=seed))
    for name in space.classes:  # one of them is within the budget
        study.enqueue_trial({f"{layer}.class": name for layer in space.layers})
    study.optimize(judge, TRIALS)
    best = min(study.trials, key=lambda trial: (trial.value, trial.number))
    return space.suggest(optuna.trial.FixedTrial(best.params))
