"""Owners that would read the weights of layers call them when these are replaced."""

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adls.layers import QuantizedLayer, QuantizedMultiheadAttention
from lightning_adls.transforms import Drop, LoRA, Pack, Prune, Quantize, calibrate
from lightning_adls.transforms.quantize import state_for

X = torch.randn(3, 5, 32)
PADDING = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 2 + [True] * 3])
CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "Quantize-all": Quantize({"*": "Integer(width=4, frac_width=2)"}),
    "Quantize-linear": Quantize({"*linear*": "Binary"}),
    "Quantize-second": Quantize({"layers.1.linear1": "Binary"}),
    "Quantize-in": Quantize({"*": "Binary"}, kinds=("MultiheadAttention",)),
    "Quantize-out": Quantize({"*out_proj": "Binary"}),
    "Quantize-mase": Quantize({"*out_proj": "Binary"}, backend="mase"),
    "Prune": Prune(0.7),
    "Prune-out": Prune(0.7, layers=("*out_proj",)),
    "Pack": Pack(),
    "Drop": Drop(("*out_proj",)),
}


def encoder(**options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval()


def outputs(model: nn.Module) -> tuple[Tensor, Tensor]:
    """In no_grad, where torch is fused, and with gradients, where it is not."""
    with torch.no_grad():
        fast = model(X, src_key_padding_mask=PADDING)
    slow = model(X.clone().requires_grad_(), src_key_padding_mask=PADDING)
    return fast[~PADDING], slow[~PADDING]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_stack_computes_without_gradients_as_with_them(
    change: Callable[[nn.Module], None],
) -> None:
    model = encoder()
    untouched, _ = outputs(model)
    change(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    fresh = encoder()
    change(fresh)
    if not isinstance(change, Drop):
        fresh.load_state_dict(model.state_dict())
    for twin in (
        *(model, fresh, deepcopy(model), pickle.loads(pickle.dumps(model))),
        torch.load(file, weights_only=False),
    ):
        fast, slow = outputs(twin)
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
        if not isinstance(change, Pack):
            assert (fast - untouched).abs().max() > 1e-3
    torch.testing.assert_close(outputs(fresh)[0], outputs(model)[0])
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def test_what_rounds_nothing_computes_as_before() -> None:
    model = encoder()
    expected, _ = outputs(model)
    Prune(0.0)(model)
    for output in outputs(model):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    plain = encoder()
    plain.load_state_dict(state_for(plain, model.state_dict()))
    torch.testing.assert_close(outputs(plain)[0], expected)


@pytest.mark.parametrize("layers", [("*linear1",), ("*out_proj",)])
def test_adapters_work_without_gradients(layers: tuple[str, ...]) -> None:
    pytest.importorskip("peft")
    from lightning_adls.transforms.lora import merge_lora

    model = encoder()
    untouched, _ = outputs(model)
    LoRA(layers, rank=2, trainable=(), dropout=0.0)(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    fast, slow = outputs(model)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert (fast - untouched).abs().max() > 1e-3
    merge_lora(model)
    for output in outputs(model):
        torch.testing.assert_close(output, fast, rtol=1e-3, atol=1e-4)
    plain = encoder()
    plain.load_state_dict(state_for(plain, model.state_dict()))


def test_an_attention_of_which_one_layer_is_replaced_keeps_hooks_and_names() -> None:
    model: Any = nn.ModuleDict({"attention": nn.MultiheadAttention(32, 2), "head": nn.Linear(4, 4)})
    plain, calls = model["attention"], []
    plain.note = "mine"
    plain.register_forward_hook(lambda *_: calls.append(1))
    keys = list(model.state_dict())
    Quantize({"*out_proj": "MXInt(width=4)"})(model)
    attention = model["attention"]
    assert type(attention) is QuantizedMultiheadAttention
    assert isinstance(attention.out_proj, QuantizedLayer)
    assert attention.in_proj_weight is plain.in_proj_weight
    assert attention.note == "mine"
    attention(X, X, X)
    assert calls
    assert set(model.state_dict()) == {*keys, "attention.out_proj._extra_state"}


def test_an_attention_that_cannot_be_replaced_refuses_its_projection_before_any_work() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 32), nn.MultiheadAttention(32, 2))
    model[1].forward = model[1].forward
    with pytest.raises(ValueError, match="has a method 'forward' of its own"):
        Quantize({"0": "Binary", "1.out_proj": "Binary"})(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("hooked", [False, True])
def test_calibration_sees_what_reaches_each_layer_and_leaves_the_model_as_it_was(
    hooked: bool,
) -> None:
    model, twin, seen = encoder(), encoder(), []
    attention = model.layers[0].self_attn
    if hooked:
        attention.register_forward_pre_hook(lambda *_: seen.append(1))
    modules = [*model.modules()]
    states = [dict(vars(module)) for module in modules]
    recipe = Quantize({"*": {"input": "Integer(width=8)", "weight": "Integer(width=8)"}})
    chosen = calibrate(model, recipe, [X], lambda x: model(x, src_key_padding_mask=PADDING))
    assert modules == [*model.modules()]
    assert [dict(vars(module)) for module in modules] == states
    assert torch.backends.mha.get_fastpath_enabled()
    # The recipe of a model whose layers are all called is the same.
    Prune(0.0)(twin)
    again = calibrate(twin, recipe, [X], lambda x: twin(x, src_key_padding_mask=PADDING))
    assert chosen == again
    assert len(chosen.layers) == 8
    chosen(model)
    assert bool(seen) == hooked


def test_calibration_observes_query_and_key() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 1)})
    recipe = Quantize({"attention": {"input": "Integer(width=8)"}})

    def forward(largest: Tensor) -> None:
        small = torch.ones(2, 1, 4)
        model["attention"](small, value=small, key=small * largest)

    for largest, frac_width in ((1.0, 6), (60.0, 1)):
        chosen = calibrate(model, recipe, [torch.tensor(largest)], forward, "minmax")
        assert f"frac_width={frac_width}" in str(chosen)


def test_training_of_a_rounded_stack_lowers_its_loss() -> None:
    model = nn.Sequential(encoder(), nn.Linear(32, 4)).train()
    roles = {"input": "LearnedInteger(width=6)", "weight": "LearnedInteger(width=4)"}
    Quantize({"*": roles})(model)
    labels, losses = torch.tensor([0, 1, 2]), []
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(X).mean(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kinds", [("Linear",), ("MultiheadAttention",)])
def test_a_stack_of_which_one_layer_was_changed_by_itself_says_what_to_do(
    kinds: tuple[str, ...],
) -> None:
    model = encoder()
    Quantize({"*": "MXInt(width=8)"}, kinds)(model.layers[0])
    with torch.no_grad(), pytest.raises(ValueError, match="use_nested_tensor=False"):
        model(X, src_key_padding_mask=PADDING)
    model.use_nested_tensor = False
    fast, slow = outputs(model)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def test_a_decoder_is_rounded() -> None:
    model = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 4, 16)
    with torch.no_grad():
        before = model(x, x)
        Quantize({"decoder.*multihead_attn*": "Binary"})(model)
        assert (model(x, x) - before).abs().max() > 1e-3
