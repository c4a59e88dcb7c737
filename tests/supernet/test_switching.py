"""Layers that are switched between recipes, and the module of one recipe, over all formats."""

import copy
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import LearnedInteger, MXInt, NumberFormat
from lightning_adls.layers import KINDS, ROLES, LayerFormats, QuantizedLayer, is_switched
from lightning_adls.search import FormatSpace
from lightning_adls.supernet import Supernet, draw, extract, largest, make_supernet, smallest
from lightning_adls.transforms import Prune, Quantize, parameter_groups
from lightning_adls.transforms.parameter_groups import learned_scales
from lightning_adls.transforms.quantize import recipe_of, state_for
from lightning_adls.transforms.rebuild import rebuild

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


def trained(space: FormatSpace, steps: int = 6) -> Any:
    """A net that was trained by recipes of the space."""
    rng = random.Random(0)
    net = Net()
    make_supernet(net, space)
    supernet, optimizer = Supernet(net), torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        supernet.switch(draw(space, rng))
        step(net, optimizer)
    return net


def check_extracted(net: Any, recipe: Quantize) -> None:
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


def expected_in_eval(net: Any) -> Tensor:
    torch.manual_seed(0)
    output: Tensor = net.eval()(IDS)
    return output


@pytest.mark.filterwarnings("ignore:.*learned scales are not fitted")
@pytest.mark.parametrize("fmt", EVERY_FORMAT.values(), ids=EVERY_FORMAT)
def test_a_recipe_that_is_taken_out_computes_what_the_supernet_does(fmt: NumberFormat) -> None:
    other = LearnedInteger(width=3)
    space = space_of(fmt, other, None)
    net, rng = trained(space), random.Random(1)
    for recipe in (smallest(space), largest(space), *(draw(space, rng) for _ in range(2))):
        check_extracted(net, recipe)


@pytest.mark.filterwarnings("ignore:.*learned scales are not fitted")
@settings(max_examples=8)
@given(
    st.lists(st.sampled_from([None, *EVERY_FORMAT.values()]), min_size=2, max_size=4, unique=True),
    st.randoms(use_true_random=False),
)
def test_mixes_of_families_are_taken_out_too(formats: list[NumberFormat | None], rng: Any) -> None:
    space = space_of(*formats)
    check_extracted(trained(space, steps=2), draw(space, rng))


MX = FormatSpace.from_templates(["net.*"], {"mx": {"weight": "MXInt"}}, {"width": [2, 4, 8]})
LSQ = FormatSpace.from_templates(
    ["net.*", "decoder"], {"learned": "LearnedInteger", "mx": "MXInt"}, {"width": [2, 4]}
)


def test_the_smallest_and_the_largest_recipe_are_those_of_the_fewest_and_most_bits() -> None:
    classes: dict[str, dict[str, tuple[str, ...]]] = {
        "mx": {
            "input": ("none",),
            "weight": ("MXInt(width=4)", "MXInt(width=2)"),
            "bias": ("none",),
        },
        "int": {
            "input": ("Integer(width=8)", "Integer(width=3)"),
            "weight": ("Integer(width=2)", "Integer(width=2, frac_width=0)"),
            "bias": ("none", "Integer(width=5)"),
        },
        "full": dict.fromkeys(ROLES, ("none",)),
    }
    space = FormatSpace(("a", "b"), classes)
    low = smallest(space).to_dict()
    # A block's exponent counts: 2.25 bits and not 2.
    assert low["a"] == low["b"]
    assert low["a"] == {
        "input": "Integer(width=3, frac_width=4)",
        "weight": "Integer(width=2, frac_width=4)",
        "bias": "Integer(width=5, frac_width=4)",
    }
    assert largest(space).to_dict() == {"a": None, "b": None}


def test_recipes_are_drawn_from_all_that_there_are() -> None:
    rng = random.Random(0)
    seen = {str(draw(MX, rng)) for _ in range(60)}
    assert len(seen) == MX.points == 3


def test_every_draw_is_a_recipe_of_the_space() -> None:
    rng = random.Random(0)
    for _ in range(20):
        recipe = draw(LSQ, rng).to_dict()
        assert list(recipe) == list(LSQ.layers)
        for formats in recipe.values():
            assert formats is not None
            assert any(
                all((formats[role] or "none") in roles[role] for role in ROLES)
                for roles in LSQ.classes.values()
            )


def test_layers_that_are_not_named_stay_as_they_are() -> None:
    net = Net()
    make_supernet(net, MX)
    assert type(net.full) is nn.Linear
    assert type(net.decoder) is nn.Linear
    assert net.decoder.weight is net.embed.weight
    assert type(extract(net, smallest(MX)).full) is nn.Linear


def test_layers_that_a_recipe_leaves_out_are_in_full_precision() -> None:
    net = trained(LSQ)
    recipe = Quantize({"decoder": "LearnedInteger(width=2)"})
    alone = extract(net, recipe)
    plain = Net()
    recipe(plain)
    plain.load_state_dict(alone.state_dict())
    assert torch.equal(expected_in_eval(alone), expected_in_eval(plain))


def test_tied_weights_stay_tied() -> None:
    net = trained(space_of(LearnedInteger(width=2), MXInt(width=4)))
    assert net.decoder.weight is net.embed.weight
    alone = extract(net, Quantize({"embed": "MXInt(width=4)", "net.*": None}, ALL_KINDS))
    assert alone.decoder.weight is alone.embed.weight
    assert alone.embed.weight is not net.embed.weight


def test_a_mask_and_the_scales_of_a_quantised_layer_are_kept() -> None:
    net: Any = Net()
    Quantize({"net.0": "LearnedInteger(width=4)"})(net)
    step(net, torch.optim.Adam(net.parameters(), lr=1e-2))
    Prune(0.5, layers=["net.*"])(net)
    output, scales = expected_in_eval(net), net.net[0].weight_scales.detach().clone()
    make_supernet(net, LSQ)
    Supernet(net).switch(Quantize({"net.0": "LearnedInteger(width=4)"}))
    assert torch.equal(net.net[0].scales_of("weight"), scales)
    assert torch.equal(expected_in_eval(net), output)
    before = net.state_dict()
    make_supernet(net, LSQ)  # again
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_state_dict_is_enough_to_make_the_supernet_again() -> None:
    net = trained(LSQ)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for fresh in (Net(), trained(MX, steps=1)):
        rebuild(fresh, state)
        fresh.load_state_dict(state)
        for recipe in (smallest(LSQ), largest(LSQ)):
            check = extract(fresh, recipe), extract(net, recipe)
            assert torch.equal(*map(expected_in_eval, check))


def test_another_supernet_or_a_quantised_module_is_not_loaded() -> None:
    state = trained(LSQ).state_dict()
    other = Net()
    make_supernet(other, space_of(LearnedInteger(width=3), layers=("net.0", "net.2", "decoder")))
    quantised = Net()
    Quantize({"net.0": "LearnedInteger(width=4)"})(quantised)
    for module in (other, quantised):
        with pytest.raises((InputValueError, RuntimeError), match="scales_by_format"):
            module.load_state_dict(state)


def test_weights_pass_between_plain_modules_and_supernets() -> None:
    plain: Any = Net()
    net = trained(LSQ)
    learned = {name: scales.clone() for name, scales in learned_scales(net).items()}
    net.load_state_dict(plain.state_dict())
    assert torch.equal(net.net[0].weight, plain.net[0].weight)
    for name, scales in learned_scales(net).items():
        assert torch.equal(scales, learned[name])
    plain.load_state_dict(state_for(plain, trained(LSQ).state_dict()))


def test_the_recipe_of_a_supernet_is_no_single_one() -> None:
    with pytest.raises(InputValueError, match=r"lightning_adls\.supernet\.extract"):
        recipe_of(trained(LSQ).state_dict())


def test_copies_and_pickles_switch_by_themselves() -> None:
    net = trained(LSQ)
    Supernet(net).switch(smallest(LSQ))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(expected_in_eval(other), expected_in_eval(net))
        Supernet(other).switch(largest(LSQ))
        assert not torch.equal(expected_in_eval(other), expected_in_eval(net))


def test_scales_follow_the_module_to_other_data_types() -> None:
    net = trained(LSQ).double()
    assert all(scales.dtype == torch.float64 for scales in learned_scales(net).values())
    alone = extract(net, smallest(LSQ))
    assert all(p.dtype == torch.float64 for p in alone.parameters())


def test_no_scale_decays() -> None:
    net = trained(LSQ, steps=0)
    decayed, spared = parameter_groups(net, weight_decay=0.1)
    scales = set(map(id, learned_scales(net).values()))
    assert scales
    assert not scales & set(map(id, decayed["params"]))
    assert scales <= set(map(id, spared["params"]))


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no-layer": (lambda net: extract(net, Quantize({"missing": "MXInt"})), "matches none"),
    "not-trained": (
        lambda net: extract(net, Quantize({"net.0": "LearnedInteger(width=3)"})),
        r"input=LearnedInteger\(width=3\) learns scales, and the layer is not trained in it",
    ),
    "backend": (lambda net: extract(net, Quantize({"net.0": "Integer"}, backend="mase")), "'mase'"),
    "no-supernet": (lambda net: Supernet(nn.Sequential(nn.Linear(2, 2))), "make_supernet"),
    "mase": (
        lambda net: make_supernet(_of_mase(), FormatSpace(("*",), LSQ.classes)),
        "backend='mase'",
    ),
}


def _of_mase() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    Quantize({"*": "Integer"}, backend="mase")(model)
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_trained_is_not_taken_out(case: str) -> None:
    act, message = REFUSED[case]
    net = trained(LSQ)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputValueError, match=message):
        act(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_layer_with_formats_of_its_own_is_not_switched() -> None:
    net: Any = Net()
    Quantize({"net.0": "MXInt"})(net)
    with pytest.raises(InputValueError, match="cannot be switched"):
        net.net[0].switch(LayerFormats())
