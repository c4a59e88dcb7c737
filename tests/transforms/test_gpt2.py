"""GPT-2, whose layers are of a class of Transformers' own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification
from transformers.pytorch_utils import Conv1D

from lightning_adls.layers import COMPUTING, QuantizedLayer
from lightning_adls.transforms import LoRA, Prune, Quantize, calibrate, costs
from lightning_adls.transforms.quantize import recipe_of, state_for

IDS = torch.arange(2, 23).view(3, 7)
RECIPE = Quantize({"*": {"input": "Integer(width=8)", "weight": "MXInt(width=4)"}})


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=30, n_embd=32, n_layer=1, n_head=2, pad_token_id=0)
    return GPT2ForSequenceClassification(config).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(input_ids=IDS).logits
    return output


def test_all_its_layers_are_rounded_calibrated_pruned_and_loaded() -> None:
    model, fresh = gpt2(), gpt2()
    recipe = calibrate(model, RECIPE, [IDS], lambda ids: model(input_ids=ids))
    recipe(model)
    layers = [m for m in model.modules() if isinstance(m, Conv1D) or m is model.score]
    assert len(layers) == 5
    assert all(isinstance(layer, QuantizedLayer) for layer in layers)
    assert costs(model)["bits_per_weight"] == 4.25
    Prune(0.5)(model)
    assert costs(model)["sparsity"] == pytest.approx(0.5, abs=1e-3)
    found = recipe_of(model.state_dict())
    assert found is not None
    found(fresh)
    Prune(0.0)(fresh)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(fresh), logits(model))
    plain = gpt2()
    plain.load_state_dict(state_for(plain, model.state_dict()))
    assert (plain.transformer.h[0].mlp.c_fc.weight == 0).float().mean() == 0.5


def test_peft_puts_its_own_adapters_on_them_and_ours_are_refused() -> None:
    peft = pytest.importorskip("peft")
    model = gpt2()
    RECIPE(model)
    with pytest.raises(ValueError, match=r"'\*\.c_attn' matches none of the 1 linear layers"):
        LoRA(("*.c_attn",))(model)
    before = logits(model)
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, r=2)
    peft.inject_adapter_in_model(config, model)
    adapter = model.transformer.h[0].attn.c_attn
    assert torch.equal(logits(model), before)
    nn.init.normal_(adapter.lora_B["default"].weight)
    assert (logits(model) - before).abs().max() > 1e-3
    adapted = logits(model)
    adapter.merge()  # writes through `data`, which a layer that keeps its weight has to be told
    merged = logits(model.eval())
    assert (merged - adapted).norm() < 0.5 * (merged - before).norm()


def test_a_recipe_names_its_kind() -> None:
    model = gpt2()
    Quantize({"*": "MXInt(width=4)"}, kinds=("TransformersConv1D",))(model)
    assert type(model.score) is nn.Linear
    found = recipe_of(model.state_dict())
    assert found is not None
    assert found.kinds == ("TransformersConv1D",)
    assert "TransformersConv1D" in COMPUTING
