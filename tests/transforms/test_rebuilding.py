"""A model is its recipe and its state dict: a fresh one, changed and loaded, computes the same."""

import io
import json
from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.formats import NumberFormat
from lightning_adls.layers import BACKENDS, KINDS, QuantizedLayer, is_kind
from lightning_adls.layers.packed_weight import PackedWeight
from lightning_adls.models import bert
from lightning_adls.transforms import (
    Drop,
    LoRA,
    Pack,
    Prune,
    PruneStructured,
    Quantize,
    Transform,
    calibrate,
)
from lightning_adls.transforms.configs import describe, read
from lightning_adls.transforms.quantize import recipe_of, state_for
from lightning_adls.transforms.walk import layers_of

pytestmark = pytest.mark.conformance

ALL = tuple(KINDS)
IDS = torch.arange(30).view(3, 10)
INTEGER = Quantize({"*": "Integer(width=6, frac_width=4)"})
ADAPTERS = LoRA(rank=2, trainable=("*.classifier.*",))
SPARSE = Prune(0.25, activation_sparsity=0.5)


class Net(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 8)
        self.mixing = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tokens = Conv1D(8, 8)
        self.pairs = nn.Conv1d(8, 6, 2)
        self.back = nn.ConvTranspose1d(6, 6, 2, groups=2)
        self.patches = nn.Conv2d(1, 4, 3, padding=1)
        self.finer = nn.ConvTranspose2d(4, 2, 2)
        self.boxes = nn.Conv3d(1, 2, 2)
        self.cubes = nn.ConvTranspose3d(2, 1, (2, 1, 1))
        self.head = nn.Linear(2 * 6 * 10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        words = self.words(ids)
        words = self.tokens(words + self.mixing(words, words, words)[0])
        pairs = self.back(self.pairs(words.movedim(-1, 1)).relu())
        patches = self.finer(self.patches(pairs[:, None]))
        output: Tensor = self.head(self.cubes(self.boxes(patches[:, None])).flatten(1))
        return output


class Bert(nn.Module):
    """A BERT that returns its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = bert(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=10,
        )

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.bert(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits


def calibrated(model: nn.Module, recipe: Quantize) -> Quantize:
    return calibrate(model, recipe, [IDS])


CALIBRATED = calibrated(Net(), Quantize({"*": "Integer(width=6)"}, ALL))
RECIPES: dict[str, tuple[type[nn.Module], Sequence[Transform]]] = {
    **{f"Quantize-{name}": (Net, [Quantize({"*": name}, ALL)]) for name in NumberFormat.classes},
    "Quantize-mase": (Bert, [Quantize(INTEGER.layers, backend="mase")]),
    "Quantize-mase-learned": (
        Bert,
        [Quantize({"*": {"input": "ResidualSign", "weight": "Binary"}}, backend="mase")],
    ),
    "calibrate": (Net, [CALIBRATED]),
    "Prune": (Net, [Prune(0.5)]),
    "Prune-random-global-all": (Net, [Prune(0.5, "random", "global", kinds=ALL)]),
    "Prune-activations": (Net, [SPARSE]),
    "Prune-activations-alone": (Net, [Prune(0.0, activation_sparsity=0.5, kinds=ALL)]),
    "Prune-activations-of-some": (Net, [Prune(0.5, layers=["pa*"], activation_sparsity=0.3)]),
    "Prune-twice": (Net, [SPARSE, Prune(0.5, activation_sparsity=0.1)]),
    "PruneStructured": (Bert, [PruneStructured(0.5, 0.5)]),
    "PruneStructured-random": (Bert, [PruneStructured(0.25, 0.75, "random", seed=3)]),
    "LoRA": (Bert, [ADAPTERS]),
    "Drop": (Bert, [Drop(["*.attention.output.dense"])]),
    "Pack": (Bert, [Pack()]),
    "Prune-Quantize": (Net, [SPARSE, Quantize({"*": "LearnedInteger(width=4)"})]),
    "Quantize-Prune": (Net, [Quantize({"*": "LearnedInteger(width=4)"}), SPARSE]),
    "calibrate-Prune": (Net, [CALIBRATED, SPARSE]),
    "Prune-Quantize-mase": (Bert, [SPARSE, Quantize(INTEGER.layers, backend="mase")]),
    "Quantize-mase-Prune": (Bert, [Quantize(INTEGER.layers, backend="mase"), SPARSE]),
    "Prune-Pack": (Bert, [SPARSE, Pack(["*.dense"])]),
    "Prune-Quantize-Pack": (
        Bert,
        [SPARSE, Quantize({"*": {"weight": "MXInt(width=8)", "input": "LearnedInteger"}}), Pack()],
    ),
    "Prune-LoRA": (Bert, [SPARSE, ADAPTERS]),
    "Quantize-LoRA": (Bert, [INTEGER, ADAPTERS]),
    "PruneStructured-Prune-Quantize": (Bert, [PruneStructured(0.5, 0.25), SPARSE, INTEGER]),
    "Prune-PruneStructured": (Bert, [SPARSE, PruneStructured(0.5, 0.25)]),
    "Drop-Prune": (Bert, [Drop(["*.query"]), SPARSE]),
}


def built(make: type[nn.Module], transforms: Sequence[Transform]) -> nn.Module:
    model = make()
    for transform in transforms:
        transform(model)
    return model


def train_a_little(model: nn.Module) -> None:
    """Fit scales that are learned, and move every parameter from where it started."""
    model.train()(IDS)
    with torch.no_grad():
        for parameter in model.parameters():
            if isinstance(parameter, PackedWeight):  # which is constant
                continue
            parameter.mul_(1.25).add_(0.01)
    model.eval()


def saved(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, from a file."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state: dict[str, Tensor] = torch.load(file, weights_only=True)
    return state


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize(("make", "transforms"), RECIPES.values(), ids=RECIPES)
def test_a_fresh_model_of_the_recipe_with_the_state_computes_the_same(
    make: type[nn.Module], transforms: Sequence[Transform], trained: bool
) -> None:
    model = built(make, transforms).eval()
    if trained:
        train_a_little(model)
    read_back = [read(json.loads(json.dumps(describe(one)))) for one in transforms]
    fresh = [built(make, read_back).eval() for _ in range(3)]
    fresh[0].load_state_dict(model.state_dict())
    fresh[1].load_state_dict(saved(model))
    fresh[2].load_state_dict(state_for(fresh[2], saved(model)))
    with torch.no_grad():
        expected = model(IDS)
        for other in (*fresh, deepcopy(model)):
            assert torch.equal(other(IDS), expected)
            assert other.state_dict().keys() == model.state_dict().keys()


def test_all_kinds_and_backends_that_are_always_there_are_tried() -> None:
    kinds = {kind for kind in KINDS for layer in Net().children() if is_kind(layer, kind)}
    assert kinds == set(KINDS)
    assert set(BACKENDS) == {"standard", "mase", "chop"}


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("backend", ["standard", "mase"])
def test_switches_that_were_set_by_hand_are_in_the_state(backend: str, enabled: bool) -> None:
    recipe = Quantize(INTEGER.layers, backend=backend)
    model, fresh = built(Bert, [recipe]).eval(), built(Bert, [recipe]).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    for number, layer in enumerate(layers):
        layer.enabled, layer.input_sparsity = enabled, number / 10
    fresh.load_state_dict(saved(model))
    with torch.no_grad():
        assert torch.equal(fresh(IDS), model(IDS))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Embedding"])
def test_a_plain_layer_refuses_an_input_sparsity_instead_of_dropping_it(kind: str) -> None:
    name = next(name for name, layer in Net().named_children() if is_kind(layer, kind))
    model = built(Net, [Prune(0.5, layers=[name], activation_sparsity=0.5)])
    plain, masked = Net(), built(Net, [Prune(0.0)])
    with pytest.raises(ValueError, match=rf"^state_for: {name}\.input_sparsity=0\.5 is nothing"):
        state_for(plain, saved(model))
    masked.load_state_dict(state_for(masked, saved(model)))
    with torch.no_grad():  # torch's own attention sums in another order
        torch.testing.assert_close(masked.eval()(IDS), model.eval()(IDS))


def test_switches_that_change_nothing_in_a_plain_layer_are_left_out_for_it() -> None:
    model = built(Net, [Quantize(INTEGER.layers, ALL)])
    for layer in layers_of(model, ALL).values():
        assert isinstance(layer, QuantizedLayer)
        layer.enabled, layer.input_sparsity = False, 0.0
    plain = Net()
    plain.load_state_dict(state_for(plain, saved(model)))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(IDS), model.eval()(IDS))


def test_the_weights_of_a_plain_model_leave_what_a_recipe_set() -> None:
    model, plain = built(Net, [SPARSE]).eval(), Net()
    model.load_state_dict(state_for(model, saved(plain)))
    assert [getattr(model, name).input_sparsity for name in ("pairs", "patches", "head")] == [
        *(0.5, 0.5, 0.5)
    ]


ROUNDING = {name: values for name, values in RECIPES.items() if name.startswith("Quantize-")}


@pytest.mark.parametrize(("make", "transforms"), ROUNDING.values(), ids=ROUNDING)
def test_the_recipe_that_is_read_from_a_state_makes_the_same_layers(
    make: type[nn.Module], transforms: Sequence[Transform]
) -> None:
    model = built(make, transforms[:1])
    recipe, fresh = recipe_of(saved(model)), make()
    assert recipe is not None
    recipe(fresh)
    fresh.load_state_dict(saved(model))
    assert recipe_of(fresh.state_dict()) == recipe
    with torch.no_grad():
        assert torch.equal(fresh.eval()(IDS), model.eval()(IDS))
    assert recipe_of(make().state_dict()) is None


@pytest.mark.parametrize("first", ["LearnedInteger(width=4)", "MXInt(width=4)"])
def test_weights_of_another_recipe_are_taken_where_that_is_asked_for(first: str) -> None:
    model = built(Net, [Quantize({"*": first}, ALL), SPARSE])
    train_a_little(model)
    fresh = built(Net, [Quantize({"*": "LearnedInteger(width=2)"}, ALL)])
    for state in (saved(model), state_for(fresh, saved(model))):
        with pytest.raises(ValueError, match=r"the recipe of words is .*width=4.*width=2"):
            fresh.load_state_dict(state)
    fresh.load_state_dict(state_for(fresh, saved(model), other_recipe=True))
    state = fresh.state_dict()
    assert torch.equal(state["head.weight"], model.state_dict()["head.weight"])
    assert torch.equal(state["head.weight_mask"], model.state_dict()["head.weight_mask"])
    assert not state["head.weight_fitted"]  # a step of four bits is none of two


def test_a_plain_model_takes_the_weights_by_state_for_and_not_as_they_are() -> None:
    model, plain = built(Net, [INTEGER]), Net()
    with pytest.raises(RuntimeError, match=r"head\._extra_state"):
        plain.load_state_dict(saved(model))
    plain.load_state_dict(state_for(plain, saved(model)))
    assert torch.equal(plain.head.weight, model.state_dict()["head.weight"])
    model.load_state_dict(plain.state_dict())  # and back, as it is
