"""Races of recipes: who is dropped, who is not, and what it costs."""

import random
from collections import Counter
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_adls.search import FormatSpace
from lightning_adls.supernet import (
    Raced,
    Subnetworks,
    draw,
    extract,
    make_supernet,
    race,
    rows_loss,
)
from lightning_adls.transforms import Quantize

SPACE = FormatSpace.from_templates(["net.0", "net.2"], {"": "MXInt"}, {"width": [2, 3, 4, 8]})


class Points(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.net(batch["x"])
        return logits


@pytest.fixture(scope="module")
def raced() -> tuple[Subnetworks[Points], list[dict[str, Tensor]]]:
    """The labels are what the unrounded network says, so that fewer bits are worse."""
    module = Points()
    make_supernet(module, SPACE)
    plain = extract(module, Quantize({"*": None}))
    x = torch.randn(2048, 16)
    labels = plain.logits({"x": x}).argmax(-1)
    batches = [{"x": a, "labels": b} for a, b in zip(x.split(64), labels.split(64), strict=True)]
    return Subnetworks(module), batches


def test_the_best_stays_and_what_is_clearly_worse_is_dropped_early(
    raced: tuple[Subnetworks[Points], list[Any]],
) -> None:
    subnetworks, batches = raced
    rng = random.Random(0)
    recipes = [Quantize({"*": f"MXInt(width={width})"}) for width in (8, 4, 2)]
    recipes += [draw(SPACE, rng) for _ in range(9)]
    found = race(subnetworks, recipes, batches)
    whole = race(subnetworks, recipes, batches, stages=1)
    assert [each.recipe for each in found] == recipes
    best = max(whole, key=lambda each: each.mean)
    for each, other in zip(found, whole, strict=True):
        assert len(other.rows) == 2048
        assert each.rows == other.rows[: len(each.rows)]
        assert not each.left or len(each.rows) == 2048
        if other.mean == best.mean:
            assert each.left
    assert found[0].left
    assert not found[2].left
    assert len(found[2].rows) < 1024
    assert sum(len(each.rows) for each in found) < 0.7 * 12 * 2048
    assert found[2].standard_error > whole[2].standard_error


def test_where_all_are_alike_all_go_on_and_the_truly_best_is_seldom_dropped() -> None:
    chance, seen = torch.Generator().manual_seed(0), Counter[str]()
    stub: Any = lambda recipe: nn.Identity()  # noqa: E731
    recipes = [Quantize({"*": "MXInt"})] * 3

    def right(module: nn.Module, batch: Tensor) -> Tensor:
        seen["batches"] += 1
        return torch.rand(len(batch), generator=chance) < 0.7

    dropped = sum(not race(stub, recipes, [torch.empty(20)] * 8, right)[0].left for _ in range(60))
    assert dropped <= 8  # 3 on average at most, more than 8 in 0.4 % of cases
    assert seen["batches"] > 0.95 * 60 * 3 * 8


class Drawn:
    """Makes modules of whose rows the losses are given, by the recipe's number."""

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self.recipes = [Quantize({str(number): "MXInt"}) for number in range(len(losses))]
        # Batches are the numbers of their rows.
        self.batches = list(torch.arange(losses.shape[1]).split(16))

    def race(self, **arguments: Any) -> list[Raced]:
        def judge(losses: Tensor, batch: Tensor) -> Tensor:
            return losses[batch]

        class Module(nn.Module):
            def __init__(self, losses: Tensor) -> None:
                super().__init__()
                self.losses = losses

        stub: Any = lambda recipe: Module(self.losses[int(*recipe.layers)])  # noqa: E731
        return race(stub, self.recipes, self.batches, lambda m, b: judge(m.losses, b), **arguments)


def read(found: list[Raced]) -> float:
    """The share of the rows."""
    return sum(len(each.rows) for each in found) / len(found) / 1024


def test_losses_tell_recipes_apart_on_fewer_rows_and_seldom_drop_the_best() -> None:
    chance = torch.Generator().manual_seed(0)
    dropped, shares = 0, torch.zeros(2)
    for _ in range(40):
        # What is hard is hard for all recipes; those after the first two are worse by a little.
        hard = torch.empty(1024).exponential_(generator=chance)
        noise = torch.randn(8, 1024, generator=chance) * 0.2
        worse = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 1])[:, None] * 0.08
        drawn = Drawn(hard + noise + worse)
        found = drawn.race()
        dropped += not found[0].left
        assert read(found) < 0.6
        assert not any(each.left for each in found[2:])
        right = Drawn(drawn.losses < 0.7).race()  # such as the answers are
        shares += torch.tensor([read(found), read(right)]) / 40
    assert shares[1] > 1.3 * shares[0]
    assert dropped <= 6  # 2 on average at most, more than 6 in 0.3 % of cases


def test_halving_limits_the_rows_whatever_is_found() -> None:
    losses = torch.randn(32, 1024, generator=torch.Generator().manual_seed(0)) + 1
    drawn = Drawn(losses + torch.linspace(0, 1, 32).flip(0)[:, None])
    found = drawn.race(keep=0.5, level=1e-9)
    counts = Counter(len(each.rows) for each in found)
    assert counts == {64: 16, 128: 8, 256: 4, 512: 2, 1024: 2}
    assert read(found) == pytest.approx((16 + 8 * 2 + 4 * 4 + 2 * 8 + 2 * 16) / 32 / 16)
    left = [number for number, each in enumerate(found) if each.left]
    assert 1 <= len(left) <= 2
    assert min(left) > 20  # of 0, the worst, to 31
    for number, each in enumerate(found):
        rows = losses[number][: len(each.rows)] + torch.linspace(1, 0, 32)[number]
        assert each.mean == pytest.approx(float(rows.mean()), rel=1e-5)
        assert each.standard_error == pytest.approx(float(rows.std() / len(rows) ** 0.5), rel=0.01)
    # Equals stay in their order, and of one recipe there is no half.
    alike = Drawn(torch.ones(3, 1024)).race(keep=0.01)
    assert [each.left for each in alike] == [True, False, False]


def test_a_recipe_whose_loss_is_not_finite_is_dropped() -> None:
    losses = torch.rand(3, 1024)
    losses[0, 5], losses[1, 1000] = torch.nan, torch.inf
    found = Drawn(losses).race()
    assert [each.left for each in found] == [False, False, True]
    assert len(found[0].rows) == 64
    assert not any(each.left for each in Drawn(losses[:2]).race())


def test_a_race_of_losses_finds_what_accuracies_find(
    raced: tuple[Subnetworks[Points], list[Any]],
) -> None:
    subnetworks, batches = raced
    recipes = [Quantize({"*": f"MXInt(width={width})"}) for width in (8, 2)]
    found = race(subnetworks, recipes, batches, rows_loss)
    assert [each.left for each in found] == [True, False]
    assert 0 < found[0].mean < found[1].mean


def test_wrong_arguments_are_refused(raced: tuple[Subnetworks[Points], list[Any]]) -> None:
    subnetworks, batches = raced
    recipe = Quantize({"*": "MXInt"})
    for arguments, message in (
        ({"recipes": []}, "recipes is empty"),
        ({"batches": []}, "batches is empty"),
        ({"stages": 0}, "stages=0 is below 1"),
        ({"level": 1.0}, r"level=1\.0 is not between"),
        ({"keep": 0.0}, r"keep=0\.0 is not above 0"),
        ({"keep": 1.5}, r"keep=1\.5 is not above 0 and at most 1"),
        ({"judge": lambda m, b: m.logits(b)}, "judge gave no boolean and no loss for each row"),
    ):
        given: dict[str, Any] = {"recipes": [recipe], "batches": batches, **arguments}
        with pytest.raises(ValueError, match=message):
            race(subnetworks, **given)
    without: Any = lambda recipe: nn.Identity()  # noqa: E731
    with pytest.raises(ValueError, match="Identity has no method logits"):
        race(without, [recipe], batches)
