"""Layers that are switched between recipes, and the module of one recipe, over all formats."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls.formats import LearnedInteger, NumberFormat
from lightning_adls.layers import KINDS, ROLES, QuantizedLayer, is_switched
from lightning_adls.search import FormatSpace
from lightning_adls.supernet import Supernet, draw, extract, largest, make_supernet, smallest
from lightning_adls.transforms import Quantize

EVERY_FORMAT = {name: cls() for name, cls in NumberFormat.classes.items()}
LEARNED = {name: fmt for name, fmt in EVERY_FORMAT.items() if fmt.learns_scales}
ALL_KINDS = tuple(KINDS)


class Net(nn.Module):
    """An embedding tied to the last layer, a convolution, an attention and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8, bias=False))
        self.decoder = nn.Linear(8, 11)
        self.decoder.weight = self.embed.weight
        self.full = nn.Linear(11, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.conv(x.mT).mT
        x = x + self.attention(x, x, x, need_weights=False)[0]
        output: Tensor = self.full(self.decoder(self.net(x)))
        return output


IDS = torch.arange(20).view(4, 5) % 11
LAYERS = ("embed", "conv", "attention", "attention.out_proj", "net.0", "net.2", "decoder")


def space_of(*formats: NumberFormat | None, layers: tuple[str, ...] = LAYERS) -> FormatSpace:
    """Each tensor of each layer may have each of the formats."""
    texts = tuple("none" if fmt is None else str(fmt) for fmt in formats)
    return FormatSpace(layers, {"any": dict.fromkeys(ROLES, texts)}, ALL_KINDS)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, ids: Tensor = IDS) -> None:
    optimizer.zero_grad()
    module(ids).square().mean().backward()
    optimizer.step()


def trained(space: FormatSpace, steps: int = 6) -> Net:
    """A net that was trained by recipes of the space."""
    import random

    net, rng = Net(), random.Random(0)
    make_supernet(net, space)
    supernet, optimizer = Supernet(net), torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        supernet.switch(draw(space, rng))
        step(net, optimizer)
    return net


def check_extracted(net: Net, recipe: Quantize) -> None:
    """What is extracted computes what the net computes, and its state fits what is quantised."""
    Supernet(net).switch(recipe)
    extracted = extract(net, recipe)
    assert not any(map(is_switched, extracted.modules()))
    for mode in (False, True):
        torch.manual_seed(0)
        expected = copy.deepcopy(net).train(mode)(IDS)
        torch.manual_seed(0)
        assert torch.equal(copy.deepcopy(extracted).train(mode)(IDS), expected)
    quantised = Net()
    recipe(quantised)
    assert list(quantised.state_dict()) == list(extracted.state_dict())
    quantised.load_state_dict(extracted.state_dict())
    if any(isinstance(m, QuantizedLayer) for m in quantised.attention.modules()):
        torch.manual_seed(0)
        assert torch.equal(quantised.eval()(IDS), expected_in_eval(extracted))


def expected_in_eval(net: nn.Module) -> Tensor:
    torch.manual_seed(0)
    output: Tensor = net.eval()(IDS)
    return output


@pytest.mark.filterwarnings("ignore:.*learned scales are not fitted")
@pytest.mark.parametrize("fmt", EVERY_FORMAT.values(), ids=EVERY_FORMAT)
def test_a_recipe_that_is_taken_out_computes_what_the_supernet_does(fmt: NumberFormat) -> None:
    import random

    other = LearnedInteger(width=3)
    space = space_of(fmt, other, None)
    net, rng = trained(space), random.Random(1)
    for recipe in (smallest(space), largest(space), *(draw(space, rng) for _ in range(2))):
        check_extracted(net, recipe)


@pytest.mark.filterwarnings("ignore:.*learned scales are not fitted")
@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from([None, *EVERY_FORMAT.values()]), min_size=2, max_size=4, unique=True),
    st.randoms(use_true_random=False),
)
def test_mixes_of_families_are_taken_out_too(formats: list[NumberFormat | None], rng: Any) -> None:
    space = space_of(*formats)
    check_extracted(trained(space, steps=2), draw(space, rng))
