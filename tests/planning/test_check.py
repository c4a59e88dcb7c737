"""Predicted beside measured losses."""

from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planned_networks import Trace, conv_net, cross_entropy
from torch import nn

from lightning_adls import check_plan, plan, sensitivity
from lightning_adls.formats import MXInt
from lightning_adls.planning import Measure, PlanCheck, divergence, measured
from lightning_adls.significance import rank_correlation

CHOICES = [MXInt(width) for width in range(2, 9)]
MEASURE = divergence(lambda model, batch: model(batch[0]))


def checked(**arguments: Any) -> PlanCheck:
    model, batch = conv_net()
    scores = sensitivity(model, [batch], CHOICES, loss=cross_entropy)
    found = plan(model, scores, CHOICES, bits_per_weight=5, groups=[["first", "second"]])
    before = Trace(model)
    check = check_plan(model, [batch], scores, found, **{"measure": MEASURE, **arguments})
    before.check()
    return check


def test_a_check_says_what_was_predicted_and_what_is_measured() -> None:
    check = checked()
    assert len(check.others) == 20
    text = str(check)
    assert text.startswith(
        f"predicted {check.predicted:.3g}, measured {check.measured.mean:.3g} +-"
    )
    assert "20 random plans: rank correlation" in text
    assert check.correlation.value > 0.8
    assert check.correlation.p_value < 1e-3
    assert [row["plan"] for row in check.rows()][:2] == ["plan", "random 0"]


def test_plans_that_are_all_alike_cannot_be_ranked() -> None:
    model, batch = conv_net()
    formats = [MXInt(4)]
    scores = sensitivity(model, [batch], formats, loss=cross_entropy)
    found = plan(model, scores, formats, bits_per_weight=8)
    check = check_plan(model, [batch], scores, found, measure=MEASURE, plans=3)
    assert str(check).endswith("all plans are predicted alike, so that nothing can be ranked")


def test_random_plans_are_of_the_seed_and_their_measure_is_that_of_the_recipe() -> None:
    assert checked(plans=5) == checked(plans=5)
    assert checked(plans=5, seed=1) != checked(plans=5)
    model, batch = conv_net()
    scores = sensitivity(model, [batch], CHOICES, loss=cross_entropy)
    found = plan(model, scores, CHOICES, bits_per_weight=5)
    (alone,) = measured(model, [found.recipe], [batch], MEASURE)
    check = check_plan(model, [batch], scores, found, plans=3, measure=MEASURE)
    assert check.measured == alone
    assert check.predicted == found.predicted


def test_a_loss_that_is_the_prediction_is_perfectly_calibrated() -> None:
    # An output without curvature: what is measured of one layer is its first-order effect, and
    # errors of different layers are on different samples.
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(4, 1, bias=False) for name in "abcd"}).double()
    x = torch.randn(4, 4).double()

    def outputs(model: nn.Module, batch: Any) -> torch.Tensor:
        row, which = batch
        found: torch.Tensor = model.get_submodule("abcd"[int(which)])(row).sum()
        return found

    batch = (x, torch.arange(4))
    choices = [{"weight": fmt} for fmt in CHOICES]
    scores = sensitivity(model, [batch], choices, loss=outputs)
    found = plan(model, scores, choices, bits_per_weight=14)
    squared = Measure("squared", outputs, lambda a, b: float((b - a) ** 2 / 2))
    check = check_plan(model, [batch], scores, found, measure=squared)
    assert check.measured.mean == pytest.approx(check.predicted, rel=1e-4)
    assert check.ratio == pytest.approx(1, rel=1e-4)
    assert check.correlation.value == pytest.approx(1)


def test_too_few_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="plans=2 is below 3"):
        checked(plans=2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=5))
def test_rank_correlations_and_their_p_values(pairs: list[tuple[int, int]]) -> None:
    from torchmetrics.functional import spearman_corrcoef

    first, second = ([float(v) for v in values] for values in zip(*pairs, strict=True))
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found.value != found.value
        assert found.p_value == 1
        return
    exact = float(spearman_corrcoef(torch.tensor(first).double(), torch.tensor(second).double()))
    assert found.value == pytest.approx(exact, abs=1e-5)  # torchmetrics adds 1e-6
    shuffles = [rank_correlation(first, list(p), permutations=1) for p in permutations(second)]
    as_far = [abs(other.value) >= abs(found.value) - 1e-9 for other in shuffles]
    assert found.p_value == pytest.approx(sum(as_far) / len(as_far), abs=0.03)


def test_rank_correlations_need_pairs() -> None:
    with pytest.raises(ValueError, match="first has 2 values and second 3"):
        rank_correlation([1, 2], [1, 2, 3])
