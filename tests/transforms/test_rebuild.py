"""A plain model becomes the one that a state dict was saved from, by the state dict alone."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from test_rebuilding import ALL, IDS, INTEGER, RECIPES, Bert, Net, built, saved, train_a_little
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import MXInt
from lightning_adls.layers import LayerFormats, QuantizedLayer, quantized
from lightning_adls.transforms import Drop, LoRA, Pack, Prune, PruneStructured, Quantize, Transform
from lightning_adls.transforms.lora import merge_lora
from lightning_adls.transforms.quantize import state_for
from lightning_adls.transforms.rebuild import rebuild

pytestmark = pytest.mark.conformance

NETWORK = (Drop, PruneStructured)
TWO_BACKENDS: list[Transform] = [
    Quantize({"*query": "Integer(width=6, frac_width=4)"}, backend="mase"),
    Quantize({"*key": "LearnedInteger(width=4)", "*value": {"weight": "MXInt(width=4)"}}),
    Quantize({"*word_embeddings": "MXInt(width=4)"}, ["Embedding"]),
    Prune(0.5, layers=["*.value", "*.output.dense"]),
    Prune(0.3, layers=["*pooler*"], activation_sparsity=0.5),
    Pack(["*classifier"]),
]
ADAPTED: dict[str, list[Transform]] = {
    "Prune-after": [LoRA(("*.query", "*.classifier"), rank=2, trainable=()), Prune(0.5)],
    "Quantize-after": [
        LoRA(rank=2, alpha=3.0, dropout=0.0, trainable=()),
        Quantize({"*": None, "*lora_A*": "LearnedInteger(width=4)", "*base_layer": "MXInt"}),
    ],
    "Pack-after": [LoRA(rank=2, trainable=()), Pack(["*base_layer"])],
    "Prune-Quantize-before": [
        Prune(0.5),
        Quantize({"*": "LearnedInteger(width=4)"}),
        LoRA(("*",), rank=3, alpha=5.0, trainable=()),
    ],
}
REBUILT: dict[str, tuple[type[nn.Module], Sequence[Transform]]] = {
    **{
        name: (make, transforms)
        for name, (make, transforms) in RECIPES.items()
        if not any(isinstance(transform, NETWORK) for transform in transforms)
    },
    "two-backends": (Bert, TWO_BACKENDS),
    **{f"LoRA-{name}": (Bert, transforms) for name, transforms in ADAPTED.items()},
}


def check_same(rebuilt: nn.Module, model: nn.Module) -> None:
    state = saved(model)
    assert list(rebuilt.state_dict()) == list(state)
    assert [type(m) for m in rebuilt.modules()] == [type(m) for m in model.modules()]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(IDS), model.eval()(IDS))


@pytest.mark.parametrize(("make", "transforms"), REBUILT.values(), ids=REBUILT)
def test_a_plain_model_becomes_that_of_the_state(
    make: type[nn.Module], transforms: Sequence[Transform]
) -> None:
    model, plain = built(make, transforms), make()
    train_a_little(model)
    rebuild(plain, saved(model))
    plain.load_state_dict(saved(model))
    check_same(plain, model)
    before = list(plain.modules())
    rebuild(plain, saved(model))
    assert all(a is b for a, b in zip(before, plain.modules(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_scales_have_the_data_type_that_they_were_saved_in(dtype: torch.dtype) -> None:
    model = built(Net, [Quantize({"*": "LearnedInteger(width=4)"}, ALL)])
    train_a_little(model)
    model, plain = model.to(dtype), Net().to(dtype)
    rebuild(plain, saved(model))
    plain.load_state_dict(saved(model))
    assert {key: value.dtype for key, value in plain.state_dict().items()} == {
        key: value.dtype for key, value in model.state_dict().items()
    }
    check_same(plain, model)


OTHERS: dict[str, tuple[type[nn.Module], Sequence[Transform]]] = {
    "other-formats": (Net, [Quantize({"*": "MXInt(width=6)"}, ALL)]),
    "more-layers": (Net, [Quantize({"*": "LearnedInteger(width=4)"}, ALL)]),
    "masks": (Net, [Prune(0.75, kinds=ALL, activation_sparsity=0.5)]),
    "other-backend": (Bert, [Quantize(INTEGER.layers, backend="mase")]),
    "packed": (Bert, [Pack()]),
    "packed-rounding-inputs": (Bert, [Quantize({"*": "MXInt(width=8)"}), Pack()]),
}


@pytest.mark.parametrize("recipe", [INTEGER, Quantize({"*": "MXInt(width=8)"})], ids=str)
@pytest.mark.parametrize(("make", "transforms"), OTHERS.values(), ids=OTHERS)
def test_a_model_that_was_changed_otherwise_becomes_that_of_the_state(
    make: type[nn.Module], transforms: Sequence[Transform], recipe: Quantize
) -> None:
    model, other = built(make, [recipe]), built(make, transforms)
    train_a_little(model)
    rebuild(other, saved(model))
    other.load_state_dict(saved(model))
    with torch.no_grad():
        assert torch.equal(other.eval()(IDS), model.eval()(IDS))
    rebuild(model, saved(other))
    model.load_state_dict(saved(other))


def test_switches_that_were_set_by_hand_are_set_again() -> None:
    model, plain = built(Net, [INTEGER, Prune(0.5, layers=["pairs"])]), Net()
    model.get_submodule("head").enabled = False  # type: ignore[assignment]
    model.get_submodule("patches").input_sparsity = 0.5  # type: ignore[assignment]
    state = torch.get_rng_state()
    rebuild(plain, saved(model))
    assert torch.equal(torch.get_rng_state(), state)
    plain.load_state_dict(saved(model))
    check_same(plain, model)
    # And another state takes them off.
    rounded = built(Net, [INTEGER])
    rebuild(plain, saved(rounded))
    plain.load_state_dict(saved(rounded))
    with torch.no_grad():
        assert torch.equal(plain.eval()(IDS), rounded.eval()(IDS))


def test_a_layer_that_is_as_it_shall_be_keeps_what_it_learned() -> None:
    model = built(Net, [Quantize({"*": "LearnedInteger(width=4)"}, ALL)])
    train_a_little(model)
    scales = model.get_parameter("head.input_scales")
    rebuild(model, built(Net, [Quantize({"*": "LearnedInteger(width=4)"}, ALL)]).state_dict())
    assert model.get_parameter("head.input_scales") is scales


@pytest.mark.parametrize("change", [INTEGER, Prune(0.5), Pack(["head"])], ids=str)
def test_the_state_of_a_plain_model_leaves_what_rounds_and_masks(change: Transform) -> None:
    # It may be older than records.
    model = built(Net, [change])
    layers = list(model.children())
    rebuild(model, Net().state_dict())
    assert layers == list(model.children())


def test_layers_that_round_are_kept_where_that_is_asked_for() -> None:
    model, other = built(Net, [INTEGER]), built(Net, [Quantize({"head": "MXInt(width=6)"})])
    head = other.head
    rebuild(other, saved(model), keep=True)
    assert other.head is head
    assert isinstance(other.pairs, QuantizedLayer)
    with pytest.raises(InputValueError, match=r"the recipe of head is .*Integer.*MXInt"):
        other.load_state_dict(saved(model))


def test_a_layer_in_two_places_stays_one() -> None:
    def make() -> nn.Sequential:
        linear = nn.Linear(8, 8)
        return nn.Sequential(linear, nn.ReLU(), nn.ModuleDict({"again": linear}))

    model, plain = make(), make()
    Quantize({"0": "LearnedInteger(width=4)"})(model)
    rebuild(plain, model.state_dict())
    plain.load_state_dict(model.state_dict())
    assert plain[0] is plain.get_submodule("2.again")
    assert isinstance(plain[0], QuantizedLayer)


class Foreign(nn.Module):
    """Masks and codes of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("weight_mask", torch.ones(3))
        self.register_buffer("codes", torch.ones(4))
        self.register_buffer("enabled", torch.ones(1))


def test_what_others_keep_under_the_same_names_is_left_alone() -> None:
    def make() -> nn.ModuleDict:
        pruned = nn.Linear(4, 4)
        torch.nn.utils.prune.l1_unstructured(pruned, "weight", 0.5)
        return nn.ModuleDict({"own": Foreign(), "pruned": pruned, "plain": nn.Linear(4, 4)})

    model, fresh = make(), make()
    Quantize({"plain": "MXInt(width=4)"})(model)
    rebuild(fresh, model.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert [type(m) for m in fresh.children()] == [type(m) for m in model.children()]


class Other(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head: Any = nn.Sequential(self.head)


class Bilinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head: Any = nn.Bilinear(1, 1, 1)
        self.head.weight, self.head.bias = Net().head.parameters()


class Wide(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(self.head.in_features, 5)


def adapted(*others: Transform, **options: Any) -> Callable[[], nn.Module]:
    return lambda: built(Bert, [*others, LoRA(**{"rank": 2, "trainable": (), **options})])


def without(entry: str, model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in saved(model).items() if not key.endswith(entry)}


def two_adapters() -> nn.Module:
    model = nn.ModuleList([Bert(), Bert()])
    for part, rank in zip(model, (2, 4), strict=True):
        LoRA(rank=rank, trainable=())(part)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], str]] = {
    "missing-layer": (
        Other,
        lambda: saved(built(Net, [INTEGER])),
        r"^rebuild: the state dict has 'head\.weight', which the model has not; build",
    ),
    "other-class": (
        Bilinear,
        lambda: saved(built(Net, [INTEGER])),
        r"a quantised Linear \(.*Integer.*\) as 'head' and the model has a Bilinear there; build",
    ),
    "other-shape": (
        Wide,
        lambda: saved(built(Net, [INTEGER])),
        r"'head\.weight' has the shape \(3, \d+\) in the state dict and \(5, \d+\) in the model",
    ),
    "pruned-structure": (
        Bert,
        lambda: saved(built(Bert, [PruneStructured(0.5, 0.5), INTEGER])),
        r"\.query\.weight' has the shape \(8, 16\) .* \(16, 16\) .* by PruneStructured where",
    ),
    "dropped": (
        Bert,
        lambda: saved(built(Bert, [Drop(["*.query"]), INTEGER])),
        r"the model has '.*\.query\.weight', which the state dict has not; .* by Drop where",
    ),
    "no-record": (
        Net,
        lambda: without("_extra_state", built(Net, [Quantize({"*": "LearnedInteger"})])),
        r"has learned scales of '.*' and, older than records, no recipe; quantise",
    ),
    "no-alpha": (
        Bert,
        lambda: without("adapter_record", adapted()()),
        r"has an adapter on '.*query' and does not say its alpha; insert the adapters by the same",
    ),
    "adapters-alone": (
        adapted(),
        lambda: saved(Bert()),
        r"the model has an adapter on '.*query' and the state dict has none; call merge_lora",
    ),
    "two-adapters": (
        lambda: nn.ModuleList([Bert(), Bert()]),
        lambda: saved(two_adapters()),
        r"has adapters of rank=2, alpha=16\.0 and of rank=4, alpha=16\.0; insert each LoRA",
    ),
    "below-adapters": (
        Bert,
        # Any state of an adapter, whose quantised layers nobody can make.
        lambda: {
            **saved(adapted()()),
            "bert.bert.pooler.dense.weight_scales": torch.ones(()),
        },
        r"has learned scales of 'bert\.bert\.pooler\.dense'",
    ),
    "itself": (
        lambda: nn.Linear(4, 4),
        lambda: saved(quantized(nn.Linear(4, 4), LayerFormats(weight=MXInt()))),
        r"model=Linear is itself a layer",
    ),
}


@pytest.mark.parametrize(("make", "state", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_made_is_one_sentence_and_changes_nothing(
    make: Callable[[], nn.Module], state: Callable[[], dict[str, Tensor]], message: str
) -> None:
    model = make()
    before, keys = list(model.modules()), list(model.state_dict())
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(InputValueError, match=message) as caught:
        rebuild(model, state())
    assert "\n" not in str(caught.value)
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))
    assert list(model.state_dict()) == keys
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


@pytest.mark.parametrize("options", [{"alpha": 4.0}, {"rank": 4}])
def test_adapters_of_another_rank_or_alpha_are_refused(options: dict[str, Any]) -> None:
    model, other = adapted(alpha=8.0)(), adapted(**{"alpha": 8.0, **options})()
    with pytest.raises(InputValueError, match=r"query has rank=2, alpha=8\.0 in .* and rank=") as e:
        other.load_state_dict(saved(model))
    assert "\n" not in str(e.value)
    older = without("adapter_record", model)
    if "rank" not in options:
        other.load_state_dict(older)
        other.load_state_dict(state_for(other, saved(model), other_recipe=True))
    model.load_state_dict(older)
    adapted(alpha=8.0, dropout=0.5)().load_state_dict(saved(model))


def test_the_record_of_an_adapter_lives_as_long_as_the_adapter() -> None:
    model = adapted()()
    assert saved(deepcopy(model)).keys() == saved(model).keys()
    assert any(key.endswith("adapter_record") for key in saved(model))
    merge_lora(model)
    assert saved(model).keys() == saved(Bert()).keys()
    Bert().load_state_dict(saved(model))


def test_what_adapters_freeze_is_frozen_again_and_nothing_is_drawn() -> None:
    model, plain = adapted()(), Bert()
    drawn = torch.get_rng_state()
    rebuild(plain, saved(model))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {n for n, p in plain.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }
