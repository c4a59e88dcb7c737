"""Races of recipes: who is dropped, who is not, and what it costs."""

import random
from collections import Counter
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_adls.search import FormatSpace
from lightning_adls.supernet import Subnetworks, draw, extract, make_supernet, race
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
    best = max(whole, key=lambda each: each.accuracy)
    for each, other in zip(found, whole, strict=True):
        assert len(other.right) == 2048
        assert each.right == other.right[: len(each.right)]
        assert not each.left or len(each.right) == 2048
        if other.accuracy == best.accuracy:
            assert each.left
    assert found[0].left
    assert not found[2].left
    assert len(found[2].right) < 1024
    assert sum(len(each.right) for each in found) < 0.7 * 12 * 2048
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


def test_wrong_arguments_are_refused(raced: tuple[Subnetworks[Points], list[Any]]) -> None:
    subnetworks, batches = raced
    recipe = Quantize({"*": "MXInt"})
    for arguments, message in (
        ({"recipes": []}, "recipes is empty"),
        ({"batches": []}, "batches is empty"),
        ({"stages": 0}, "stages=0 is below 1"),
        ({"level": 1.0}, r"level=1\.0 is not between"),
        ({"right": lambda m, b: m.logits(b)}, "right gave no boolean for each row"),
    ):
        given: dict[str, Any] = {"recipes": [recipe], "batches": batches, **arguments}
        with pytest.raises(ValueError, match=message):
            race(subnetworks, **given)
    without: Any = lambda recipe: nn.Identity()  # noqa: E731
    with pytest.raises(ValueError, match="Identity has no method logits"):
        race(without, [recipe], batches)
