"""Baked layers are plain ones that compute what the quantised, masked or packed ones did."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_rebuilding import ALL, IDS, INTEGER, RECIPES, Bert, Net, built, train_a_little
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import QuantizedLayer
from lightning_adls.transforms import LoRA, Pack, Prune, Quantize, Transform
from lightning_adls.transforms.bake import bake

pytestmark = pytest.mark.conformance

WITHOUT_INPUTS: dict[str, tuple[type[nn.Module], Sequence[Transform]]] = {
    **{
        name: (Net, [Quantize({"*": {"weight": name, "bias": name}}, ALL)])
        for name in NumberFormat.classes
    },
    **{
        f"{name}-pruned": (Net, [Quantize({"*": {"weight": name}}, ALL), Prune(0.5, kinds=ALL)])
        for name in NumberFormat.classes
    },
    "mase": (Bert, [Quantize({"*": {"weight": "MXInt(width=4)"}}, backend="mase")]),
    "mase-binary": (Bert, [Quantize({"*": {"weight": "Binary"}}, backend="mase"), Prune(0.5)]),
    "Prune": (Net, [Prune(0.5)]),
    "Pack": (Bert, [Pack()]),
    "Prune-Quantize-Pack": (
        Bert,
        [
            Prune(0.5),
            Quantize({"*": {"weight": "MXInt(width=8)", "bias": "LearnedInteger"}}),
            Pack(),
        ],
    ),
}


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = model.eval()(IDS)
    return output


def check(model: nn.Module, expected: Tensor) -> None:
    # Torch's own attention multiplies in another order.
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize(("make", "transforms"), WITHOUT_INPUTS.values(), ids=WITHOUT_INPUTS)
@pytest.mark.filterwarnings("ignore:.*learned scales are not fitted")
def test_baked_layers_are_plain_and_compute_the_same(
    make: type[nn.Module], transforms: Sequence[Transform], trained: bool
) -> None:
    model, plain = built(make, transforms), make()
    if trained:
        train_a_little(model)
    expected = outputs(model)
    modes = [part.training for part in model.modules()]
    bake(model)
    check(model, expected)
    assert not any(isinstance(part, QuantizedLayer) for part in model.modules())
    assert [part.training for part in model.modules()] == modes
    plain.load_state_dict(model.state_dict())
    check(plain, expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_baked_model_is_exported_as_a_plain_one() -> None:
    model = built(Net, [Prune(0.5), Quantize({"*": {"weight": "MXInt(width=4)"}}, ALL)])
    bake(model.eval())
    exported, plain = (torch.export.export(each, (IDS,)) for each in (model, Net().eval()))
    assert torch.equal(exported.module()(IDS), outputs(model))
    assert [str(node.target) for node in exported.graph.nodes] == [
        str(node.target) for node in plain.graph.nodes
    ]


@pytest.mark.parametrize(("make", "transforms"), RECIPES.values(), ids=RECIPES)
def test_what_changes_inputs_is_refused_and_named_unless_it_may_be_left_out(
    make: type[nn.Module], transforms: Sequence[Transform]
) -> None:
    model = built(make, transforms)
    train_a_little(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    changing = [
        name
        for name, layer in layers.items()
        if layer.input_sparsity or layer.formats.input is not None
    ]
    before, state = list(model.modules()), list(model.state_dict())
    if changing:
        with pytest.raises(InputValueError, match=r"^bake: no plain layer can round") as caught:
            bake(model)
        assert ", ".join(changing) in str(caught.value)
        assert list(model.modules()) == before
        assert list(model.state_dict()) == state
    for name in changing:  # the outputs without what is left out
        layer = layers[name]
        layer.input_sparsity = 0.0
        vars(layer)["rounded_input"] = lambda input: input
    expected = outputs(model)
    for name in changing:
        del vars(layers[name])["rounded_input"]
    bake(model, ignore_inputs=True)
    check(model, expected)
    assert not any(isinstance(part, QuantizedLayer) for part in model.modules())


def test_what_is_switched_off_is_baked_as_it_is() -> None:
    model: Any = built(Net, [Prune(0.5), INTEGER])
    plain = Net()
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.enabled = False
    weight = model.head.weight.detach().clone()
    expected = outputs(model)
    bake(model)  # nothing rounds an input
    check(model, expected)
    assert torch.equal(model.head.weight[model.head.weight != 0], weight[model.head.weight != 0])
    plain.load_state_dict(model.state_dict())


def test_hooks_and_attributes_go_along_and_parameters_that_nothing_changes_stay() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 4)).eval()
    Quantize({"0": {"weight": "MXInt(width=4)"}, "1": {"bias": "MXInt(width=8)"}})(model)
    seen: list[int] = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    model[0].mark = "mine"
    model[0].weight.requires_grad_(False)
    bias, weight = model[0].bias, model[1].weight
    bake(model)
    model(torch.ones(1, 32))
    assert (seen, model[0].mark) == ([1], "mine")
    assert model[0].bias is bias
    assert model[1].weight is weight
    assert not model[0].weight.requires_grad


class Tied(nn.Module):
    """An embedding and a head on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 32), nn.Linear(32, 40, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.words(ids))
        return output


@pytest.mark.parametrize("kinds", [["Linear"], ["Linear", "Embedding"]], ids=str)
def test_layers_share_a_weight_where_its_values_agree(kinds: list[str]) -> None:
    model = Tied()
    Quantize({"*": {"weight": "MXInt(width=4)"}}, kinds)(model)
    full, expected = model.words.weight, outputs(model)
    values = full.detach().clone()
    bake(model)
    assert (model.head.weight is model.words.weight) == ("Embedding" in kinds)
    assert torch.equal(outputs(model), expected)
    assert torch.equal(full, values)


def test_a_layer_in_two_places_stays_one() -> None:
    linear = nn.Linear(8, 8)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    Prune(0.5)(model)
    bake(model)
    assert model[0] is model[2]
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("change", [Quantize({"*": {"weight": "MXInt(width=4)"}}), Prune(0.5)])
@pytest.mark.parametrize("before", [True, False])
def test_adapters_stay_adapters(change: Transform, before: bool) -> None:
    lora = LoRA(("*.query",), rank=2, trainable=())
    model = built(Bert, [change, lora] if before else [lora, change])
    train_a_little(model)
    expected, plain = outputs(model), built(Bert, [lora])
    bake(model)
    assert torch.equal(outputs(model), expected)
    plain.load_state_dict(model.state_dict())
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]


def test_packed_weights_have_the_data_type_of_the_rest() -> None:
    model = nn.Sequential(nn.Linear(32, 4)).to(torch.bfloat16).eval()
    Pack()(model)
    x = torch.ones(1, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model(x)
        bake(model)
        assert torch.equal(model(x), expected)


def test_what_cannot_be_replaced_is_refused_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    Prune(0.5)(model)
    with pytest.raises(InputValueError, match=r"^bake: model=QuantizedLinear is itself a layer"):
        bake(model[0])
    first = model[0]
    model[1].forward = first.forward
    with pytest.raises(InputValueError, match="has a method 'forward' of its own"):
        bake(model)
    assert model[0] is first
