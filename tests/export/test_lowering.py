"""A lowered model computes what the quantised one computes, and leaves it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_adls.compiling import compile_layers
from lightning_adls.errors import InputValueError
from lightning_adls.export import load, lower, lowerable, save
from lightning_adls.formats import NumberFormat
from lightning_adls.layers.int8_linear import Int8Linear, LoweredLinear
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize

INPUT, WEIGHT = "Integer(width=8, frac_width=5)", "Integer(width=8, frac_width=9)"
RECIPE = {"*": {"input": INPUT, "weight": WEIGHT, "bias": "Integer(width=8, frac_width=9)"}}
IDS = torch.randint(1, 50, (3, 11), generator=torch.Generator().manual_seed(0))
# Ends of texts, which are not looked at.
MASK = torch.arange(11) < torch.tensor([[11], [5], [1]])


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def small_bert(recipe: object = RECIPE) -> nn.Module:
    model = bert(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    Quantize(recipe)(model)  # type: ignore[arg-type]
    return model.eval()


def logits(model: nn.Module, rows: int = 3, length: int = 11) -> Tensor:
    found: Tensor = model(input_ids=IDS[:rows, :length], attention_mask=MASK[:rows, :length]).logits
    return found


def lowered_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LoweredLinear)]


def test_a_bert_is_lowered_in_a_copy_and_computes_the_same() -> None:
    model = small_bert().train()
    before = {name: id(module) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low = lower(model)
    assert not low.training
    assert model.training
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert lowered_layers(low) == list(lowerable(model))
    assert len(lowered_layers(low)) == 14
    # Steps are powers of two and sums short: what is computed is exact but for the layers between.
    for rows, length in ((3, 11), (1, 11), (2, 4), (1, 1)):
        assert torch.equal(logits(low, rows, length), logits(model.eval(), rows, length))
    assert torch.equal(logits(low), logits(low)), "the same in every call"


def test_what_is_not_lowered_is_shared() -> None:
    model = small_bert()
    low = lower(model)
    mine, theirs = dict(model.named_parameters()), dict(low.named_parameters())
    assert theirs
    assert all(theirs[name] is mine[name] for name in theirs)


class Blocks(nn.Module):
    """Two blocks that are alike but for their weights and learned steps."""

    def __init__(self) -> None:
        super().__init__()
        blocks = (nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32)) for _ in "ab")
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of ``x``, ``(batch, positions, 32)``."""
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_compiled_copy_computes_the_same_in_one_graph_for_layers_that_are_alike() -> None:
    model = Blocks()
    Quantize({"*": "LearnedInteger(width=8)"})(model)
    model(torch.randn(4, 5, 32))
    low = lower(model.eval())
    inputs = [torch.randn(*shape, 32) for shape in ((3, 7), (2, 4))]
    expected = [low(x) for x in inputs]
    torch._dynamo.utils.counters.clear()
    compile_layers(low)
    for x, y in zip(inputs, expected, strict=True):
        assert torch.allclose(low(x), y, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    whole: nn.Module = torch.compile(model)  # type: ignore[assignment]
    assert len(lowered_layers(lower(whole))) == 4, "what was compiled may be given"


@pytest.mark.parametrize("name", NumberFormat.classes)
def test_of_a_mixed_model_the_integer_layers_are_lowered(name: str) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).train()
    Quantize({"0": {"input": name, "weight": name}, "2": RECIPE["*"]})(model)
    x = torch.randn(6, 32)
    model(x)  # fits learned scales
    model.eval()
    low = lower(model)
    expected = ["0", "2"] if name in ("Integer", "LearnedInteger", "MXInt", "BlockFP") else ["2"]
    assert lowered_layers(low) == expected
    assert [key for key, reason in lowerable(model).items() if reason is None] == expected
    assert torch.allclose(low(x), model(x), atol=1e-5)


def test_masks_hooks_and_packed_weights_come_along(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    Prune(0.5)(model)
    Quantize(RECIPE)(model)
    x = torch.randn(4, 32)
    save(model, tmp_path / "model.safetensors")
    low = lower(load(tmp_path / "model.safetensors", plain, packed=True))
    assert len(lowered_layers(low)) == 2
    assert torch.equal(low(x), model(x))
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("hook"))
    lower(model)(x)
    assert calls == ["hook"]
    with pytest.raises(InputValueError, match="save the model that was lowered"):
        save(low, tmp_path / "lowered.safetensors")


def test_layers_of_attentions_and_of_gpt_2_are_lowered_where_they_are_called() -> None:
    encoder = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    Quantize(RECIPE, kinds=("Linear", "MultiheadAttention"))(encoder)
    low = lower(encoder)
    assert lowered_layers(low) == ["self_attn.out_proj", "linear1", "linear2"]
    x = torch.randn(2, 5, 32)
    assert torch.allclose(low(x), encoder(x), atol=1e-5)
    assert "self_attn" not in lowerable(encoder), "its own projections stay"

    gpt = nn.Sequential(Conv1D(24, 32)).eval()
    Quantize(RECIPE, kinds=("TransformersConv1D",))(gpt)
    x = torch.randn(2, 5, 32)
    assert torch.equal(lower(gpt)(x), gpt(x))


def test_a_layer_by_itself_and_one_used_twice() -> None:
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared).eval()
    Quantize(RECIPE)(model)
    low = lower(model)
    assert low.get_submodule("0") is low.get_submodule("2")
    x = torch.randn(3, 16)
    assert torch.equal(low(x), model(x))
    alone = lower(model[0])
    assert isinstance(alone, Int8Linear)
    assert torch.equal(alone(x), model[0](x))


def test_a_model_in_bfloat16_keeps_its_dtype() -> None:
    model = small_bert().bfloat16()
    found, expected = logits(lower(model)), logits(model)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found, expected, atol=0.02)


def test_the_state_dict_fits_another_copy() -> None:
    model, other = small_bert(), small_bert()
    low = lower(model)
    again = lower(other)
    again.load_state_dict(low.state_dict())
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"*": "MXFP"}, "rounded to MXFP"),
        ({"*": {"weight": "Integer(width=8)"}}, "the input is not rounded"),
        ({"*": "Integer(width=12)"}, "the input has 12 bits, more than 8"),
    ],
)
def test_a_model_without_a_layer_for_it_is_refused_with_the_reasons(
    recipe: object, why: str
) -> None:
    model = nn.Sequential(nn.Linear(32, 2))
    Quantize(recipe)(model)  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match=f"Sequential has no layer for int8 .*{why}"):
        lower(model)


def test_layers_of_mase_plain_models_and_unknown_engines_are_refused() -> None:
    model = nn.Sequential(nn.Linear(32, 2))
    with pytest.raises(InputValueError, match="nothing is rounded"):
        lower(model)
    with pytest.raises(InputValueError, match="no linear layer"):
        lower(nn.ReLU())
    Quantize(RECIPE, backend="mase")(model)
    with pytest.raises(InputValueError, match="the arithmetic is that of mase"):
        lower(model)
    with pytest.raises(InputValueError, match=r"engine='cuda' is none; there are avx2 and onednn"):
        lower(model, engine="cuda")
