"""Recipes that cost too much, brought within a limit."""

import random
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_adls.search import FormatSpace
from lightning_adls.search.recipe_costs import RecipeCosts
from lightning_adls.search.shrinking import shrunk
from lightning_adls.transforms import Quantize

LAYERS = ["0", "2", "4"]
CLASSES = {"A": "MXInt", "B": {"weight": "Integer"}, "C": {"weight": "Binary"}, "D": None}
RANGES = {"width": [2, 3, 4, 6, 8], "frac_width": [1, 3], "block_size": [16, 32]}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


COSTS = RecipeCosts(network())


@pytest.mark.long
@given(
    seed=st.integers(0, 10**6),
    classes=st.sets(st.sampled_from(sorted(CLASSES)), min_size=1),
    share=st.floats(0, 1.2),
    unit=st.sampled_from(["bits_per_weight", "size_mb"]),
)
def test_what_is_shrunk_is_of_the_space_within_the_limit_and_no_smaller_than_it_must_be(
    seed: int, classes: set[str], share: float, unit: str
) -> None:
    space = FormatSpace.from_templates(LAYERS, {c: CLASSES[c] for c in sorted(classes)}, RANGES)
    costs, rng = COSTS, random.Random(seed)

    class Random(optuna.trial.FixedTrial):
        def suggest_categorical(self, name: str, choices: Any) -> Any:
            return rng.choice(list(choices))

    recipe = space.suggest(Random({}))
    least, own = costs.least(space)[unit], costs(recipe)[unit]
    limit = least + share * (own - least)
    found = shrunk(space, recipe, lambda each: costs(each)[unit] <= limit, random.Random(seed))
    assert found is not None
    space.params_of(found)  # which refuses what is not in the space
    assert costs(found)[unit] <= limit
    if own <= limit:
        assert found == recipe, "what fits stays as it is"
    again = shrunk(space, recipe, lambda each: costs(each)[unit] <= limit, random.Random(seed))
    assert again == found


def test_what_cannot_fit_is_none_and_inputs_shrink_where_they_count() -> None:
    space = FormatSpace.from_templates(LAYERS, {"A": "MXInt"}, RANGES)
    recipe = Quantize(dict.fromkeys(LAYERS, "MXInt(width=8, block_size=16)"))
    assert shrunk(space, recipe, lambda _: False, random.Random(0)) is None

    def narrow(each: Quantize) -> bool:
        return all(c.input.width == 2 for c in each.layers.values())  # type: ignore[union-attr]

    assert shrunk(space, recipe, narrow, random.Random(0)) is None
    found = shrunk(space, recipe, narrow, random.Random(0), ("weight", "input"))
    assert found is not None
    assert narrow(found)
