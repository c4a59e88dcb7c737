"""Number formats to choose from."""

import json
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.formats import parse
from lightning_adls.layers import LayerFormats
from lightning_adls.search import FormatSpace, expand
from lightning_adls.transforms import Quantize

RANGES = {"width": [4, 8], "frac_width": [2, 3], "exponent_width": [2, 3, 4]}


def test_a_template_stands_for_all_combinations_of_its_ranges() -> None:
    assert expand("Integer", RANGES) == (
        "Integer(width=4, frac_width=2)",
        "Integer(width=4, frac_width=3)",
        "Integer(width=8, frac_width=2)",
        "Integer(width=8, frac_width=3)",
    )


def test_fixed_parameters_are_not_searched_and_a_formats_own_range_comes_first() -> None:
    ranges = {**RANGES, "Integer.width": [6]}
    assert expand("Integer(frac_width=1)", ranges) == ("Integer(width=6, frac_width=1)",)


def test_combinations_that_cannot_be_are_no_choices() -> None:
    texts = expand("MinifloatIEEE(exponent_bias=3)", RANGES)
    shapes = {(fmt.width, fmt.exponent_width) for fmt in map(parse, texts)}  # type: ignore[attr-defined]
    assert shapes == {(4, 2), (8, 2), (8, 3), (8, 4)}


def test_every_choice_of_every_registered_format_can_be_built() -> None:
    from lightning_adls.formats import NumberFormat

    for name in NumberFormat.classes:
        for text in expand(name, RANGES):
            assert str(parse(text)) == text


def test_a_range_of_tiles_makes_texts_that_read_back_as_tiles() -> None:
    texts = expand("BlockFP(width=4)", {"block_size": [16, (2, 16), (-1, 16)]})
    assert [parse(text).block_size for text in texts] == [16, (2, 16), (-1, 16)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("template", "ranges", "message"),
    [
        ("Intger", {}, "did you mean Integer"),
        ("Integer(wide=3)", {}, "wide=3 is no parameter"),
        (
            "MinifloatIEEE",
            {"width": [4], "exponent_width": [4]},
            "no combination of the ranges makes a MinifloatIEEE: .* leaves no mantissa bit",
        ),
        ("Integer", {"witdh": [8]}, "'witdh' is no parameter of any format"),
        ("Integer", {"Integer.bits": [8]}, r"'Integer\.bits' is no parameter of Integer"),
        ("Integer", {"width": []}, r"width=\[\] is not a list of values"),
        ("Integer", {"width": [8], "frac_width": 3}, "frac_width=3 is not a list of values"),
        ("Integer", {"width": [8, 99]}, "no format takes width: .*width=99 is not in"),
        ("BlockFP", {"block_size": [16, (-1, 0)]}, r"no format takes block_size: .*\(-1, 0\)"),
        ("BlockFP", {"block_size": [(1, 2, 3)]}, r"\(1, 2, 3\) is not a block"),
        ({"wait": "Integer"}, {}, "names \\['wait'\\]"),
    ],
)
def test_wrong_templates_and_ranges_are_refused(
    template: str, ranges: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FormatSpace.from_templates(["a"], {"A": template}, ranges)


def test_a_value_that_one_format_takes_is_left_out_of_the_others() -> None:
    ranges = {"width": [2, 8], "exponent_width": [2]}  # a minifloat has at least three bits
    space = FormatSpace.from_templates(["a"], {"A": "MinifloatIEEE"}, ranges)
    assert space.classes["A"]["weight"] == ("MinifloatIEEE(width=8, exponent_width=2)",)


def mixed() -> FormatSpace:
    classes = {"Integer": "Integer", "Ternary": {"weight": "Ternary"}, "Full": None}
    return FormatSpace.from_templates(["a", "b"], classes, RANGES)


def test_every_layer_chooses_its_class_and_every_tensor_its_format() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        recipe = mixed().suggest(study.ask())
        assert list(recipe.layers) == ["a", "b"]
        seen |= {str(recipe.layers["a"])}
    integers = [LayerFormats(*[parse(t)] * 3) for t in expand("Integer", RANGES)]
    assert str(LayerFormats()) in seen
    assert str(LayerFormats(weight=parse("Ternary"))) in seen
    assert len(seen - {str(f) for f in integers}) > 10, "input, weight and bias must differ"


def test_points_count_every_recipe_once() -> None:
    assert mixed().points == (4**3 + 1 + 1) ** 2
    assert FormatSpace.from_templates(["a"], {"Full": None}, RANGES).points == 1


def test_the_grid_has_every_point_of_a_small_space() -> None:
    space = FormatSpace.from_templates(["*"], {"Ternary": {"weight": "Integer"}}, RANGES)
    sampler = optuna.samplers.GridSampler(space.grid(), seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: len(str(space.suggest(trial))), n_trials=100)
    assert len(study.trials) == space.points == 4
    assert len({t.params["*.weight"] for t in study.trials}) == 4


def test_a_grid_that_cannot_be_enumerated_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="use 'random' or 'tpe'"):
        mixed().grid()
    big = FormatSpace.from_templates([str(n) for n in range(14)], {"Integer": "Integer"}, RANGES)
    with pytest.raises(ValueError, match=r"would enumerate 1\.9e\+25 points.*layers: '\*'"):
        big.grid()


def test_a_recipe_is_read_back_from_what_a_trial_stores() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        recipe = mixed().suggest(study.ask())
        assert mixed().read(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_a_backend_has_layers_for_all_choices_or_the_space_is_refused() -> None:
    mixed().check_backend("standard")
    mixed().check_backend("mase")
    space = FormatSpace.from_templates(
        ["a"], {"Fits": "Log", "Odd": {"input": "Integer", "weight": "Log"}}, RANGES
    )
    space.check_backend("standard")
    with pytest.raises(ValueError, match="Log"):
        space.check_backend("mase")
    with pytest.raises(ValueError, match="backend='fast' is unknown"):
        space.check_backend("fast")


def test_a_backend_that_lacks_one_choice_of_many_is_noticed() -> None:
    space = FormatSpace.from_templates(["a"], {"A": "Integer"}, {"signed": [True, False]})
    with pytest.raises(ValueError, match="signed=False"):
        space.check_backend("mase")


def test_checking_a_backend_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    mixed().check_backend("standard")
    assert torch.equal(torch.get_rng_state(), state)


CLASSES = {"A": "Integer", "B": {"weight": "MXInt", "input": "Integer"}, "C": None}


@given(
    data=st.data(),
    classes=st.sets(st.sampled_from(sorted(CLASSES)), min_size=1),
    layers=st.sampled_from([["first", "second"], ["*"]]),
)
def test_the_parameters_of_a_recipe_choose_it(
    data: st.DataObject, classes: set[str], layers: list[str]
) -> None:
    space = FormatSpace.from_templates(layers, {c: CLASSES[c] for c in sorted(classes)}, RANGES)

    class Drawn(optuna.trial.FixedTrial):
        """Draws what is asked for and keeps it."""

        def suggest_categorical(self, name: str, choices: Any) -> Any:
            drawn[name] = data.draw(st.sampled_from(list(choices)))
            return drawn[name]

    drawn: dict[str, str] = {}
    recipe = space.suggest(Drawn({}))
    assert space.params_of(recipe) == drawn
    assert space.params_of(space.read(recipe.to_dict())) == drawn
    assert space.suggest(optuna.trial.FixedTrial(drawn)) == recipe
    assert FormatSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_a_recipe_that_cannot_be_chosen_has_no_parameters() -> None:
    space = FormatSpace.from_templates(["a"], {"A": "Integer"}, RANGES)
    with pytest.raises(ValueError, match=r"'a' cannot be given .*MXInt"):
        space.params_of(Quantize({"a": "MXInt(width=4)"}))
