"""Which parameters decay."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError
from lightning_adls.formats import LearnedInteger, ResidualSign
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.parameter_groups import learned_scales, parameter_groups

LEARNED = {"*": "LearnedInteger(width=4)"}


class Tied(nn.Module):
    """An embedding whose weight is the head's, a norm, and a layer of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.norm = nn.LayerNorm(4)
        self.first = self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 8)
        self.head.weight = self.embedding.weight


def names(module: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    return [[name_of[id(parameter)] for parameter in group["params"]] for group in groups]


@pytest.mark.parametrize("recipe", [LEARNED, {"*": {"input": "ResidualSign"}}, {"*": "Integer"}])
@pytest.mark.parametrize("scales_lr", [None, 1e-4])
def test_each_trained_parameter_is_in_one_group(recipe: Any, scales_lr: float | None) -> None:
    module = Tied()
    Quantize(recipe)(module)
    module.first.bias.requires_grad_(False)
    groups = parameter_groups(module, 0.1, scales_lr)
    found = names(module, groups)
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert sorted(name for group in found for name in group) == sorted(trained)
    assert found[0] == ["embedding.weight", "first.weight"]
    scales = {name for name in trained if name.endswith("scales")}
    assert scales == learned_scales(module).keys()
    assert scales <= set(found[-1])
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0][: len(groups)]
    assert [group.get("lr") for group in groups[2:]] == ([] if scales_lr is None else [scales_lr])
    torch.optim.AdamW(groups, lr=1e-3)


def test_a_scale_of_two_dimensions_would_not_decay() -> None:
    module = nn.Sequential(nn.Linear(4, 2))
    Quantize(LEARNED)(module)
    module[0].weight_scales = nn.Parameter(torch.ones(2, 1))
    assert names(module, parameter_groups(module, 0.1))[0] == ["0.weight"]


@pytest.mark.parametrize("fmt", [LearnedInteger(), *(ResidualSign(n) for n in (1, 2, 4))])
def test_all_formats_learn_scales_of_one_dimension(fmt: LearnedInteger | ResidualSign) -> None:
    # Which is why the classifier's groups, whose order checkpoints hold, are what they were.
    assert fmt.initial_scales().dim() == 1


@pytest.mark.parametrize("scales_lr", [None, 0.01])
def test_scales_under_decay_move_by_their_gradient_alone(scales_lr: float | None) -> None:
    def trained(decay: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 2))
        Quantize({"*": {"input": "LearnedInteger(width=4)"}})(module)
        optimizer = torch.optim.SGD(parameter_groups(module, decay, scales_lr), lr=0.01)
        module(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        weight = module.get_parameter("0.weight")
        return [p.detach() for p in (weight, *learned_scales(module).values())]

    (weight, scale), (decayed, spared) = trained(0.0), trained(0.5)
    assert torch.equal(scale, spared)
    assert not torch.equal(weight, decayed)


def test_the_groups_of_the_classifier_are_those_that_its_checkpoints_hold(mlp: Any) -> None:
    # States of optimizers go by position: parameters in order, by their dimensions.
    classifier = TextClassifier(mlp, [Quantize(LEARNED)])
    trained = [p for p in classifier.parameters() if p.requires_grad]
    groups = parameter_groups(classifier, 0.01)
    assert [list(map(id, group["params"])) for group in groups] == [
        [id(p) for p in trained if p.dim() >= 2],
        [id(p) for p in trained if p.dim() < 2],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -0.1}, "parameter_groups: weight_decay=-0.1 is below 0."),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"weight_decay": 0.1, "scales_lr": 0.0}, "scales_lr=0.0 is not above 0."),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        parameter_groups(nn.Linear(2, 2), **arguments)
