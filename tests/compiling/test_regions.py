"""Compiling the repeated layers of a network once: graphs, the same numbers, limits."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertModel, GPT2Config, GPT2Model

from lightning_adls.bench.instruments.graphs import watched
from lightning_adls.compiling import compile_layers, compile_whole, regions, repeated_blocks
from lightning_adls.errors import InputValueError
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

INTEGER, MX = "Integer(width=4)", "MXInt(width=4)"


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without generating code, and forget earlier graphs."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def network(*recipes: str | None) -> nn.Module:
    """A BERT with a layer for each recipe."""
    torch.manual_seed(0)
    model = bert(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=len(recipes),
        intermediate_size=16,
        max_position_embeddings=16,
        dropout=0.0,
    )
    for number, recipe in enumerate(recipes):
        if recipe is not None:
            Quantize({f"*.layer.{number}.*": recipe})(model)
    return model


def batch(rows: int, tokens: int) -> dict[str, Tensor]:
    """Texts of which the last is shorter."""
    ids = torch.arange(rows * tokens).view(rows, tokens) % 32
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def step(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    model.zero_grad()
    logits: Tensor = model(**inputs).logits
    logits.square().sum().backward()
    return logits


@pytest.mark.long
def test_layers_that_are_alike_share_a_graph_for_all_sizes_and_compute_as_eager_ones() -> None:
    eager = network(INTEGER, INTEGER, INTEGER)
    compiled = deepcopy(eager)
    assert len(compile_layers(compiled)) == 3
    with watched() as found:
        for inputs in (batch(4, 8), batch(3, 12)):
            assert torch.equal(step(compiled, inputs), step(eager, inputs))
            for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
                assert ours.grad is not None
                assert theirs.grad is not None
                assert torch.equal(ours.grad, theirs.grad)
    assert (found.graphs, found.breaks) == (1, ())
    with watched() as found, torch.no_grad():
        for inputs in (batch(4, 8), batch(3, 12)):
            assert torch.equal(compiled.eval()(**inputs).logits, eager.eval()(**inputs).logits)
    assert (found.graphs, found.breaks) == (1, ())


@pytest.mark.long
def test_layers_of_other_formats_have_graphs_of_their_own() -> None:
    eager = network(INTEGER, MX, None)
    compiled = deepcopy(eager)
    compile_layers(compiled)
    with watched() as found:
        for inputs in (batch(4, 8), batch(3, 12)):
            assert torch.equal(step(compiled, inputs), step(eager, inputs))
    assert (found.graphs, found.breaks) == (3, ())


@pytest.mark.long
def test_batches_without_padding_cost_one_more_graph() -> None:
    model = network(INTEGER, INTEGER)
    compile_layers(model)
    whole = {name: torch.ones_like(value) for name, value in batch(4, 8).items()}
    with watched() as found:
        for inputs in (batch(4, 8), whole, whole):
            step(model, inputs)
    assert (found.graphs, found.breaks) == (2, ())


@pytest.mark.parametrize("compiles", [compile_layers, compile_whole])
def test_over_the_limit_there_is_an_error_and_no_eager_run(
    compiles: Callable[[nn.Module], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(nn.Module):
        """Has a number that each call changes, which compiled code takes for a constant."""

        def __init__(self) -> None:
            super().__init__()
            self.calls, self.linear = 0, nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling():
                pytest.fail("ran eagerly")
            self.calls += 1
            y: Tensor = self.linear(x) * self.calls
            return y

    monkeypatch.setattr(regions, "GRAPHS_PER_BLOCK", 2)
    model = nn.ModuleList([Counting()]) if compiles is compile_layers else Counting()
    compiles(nn.ModuleDict({"layers": model}) if compiles is compile_layers else model)
    counting = model[0] if isinstance(model, nn.ModuleList) else model
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        for _ in range(2):
            counting(torch.ones(2, 3, 4))
        with pytest.raises(RuntimeError, match="Counting: compiled 2 times"):
            counting(torch.ones(2, 3, 4))


def test_it_finds_the_layers_of_any_transformer() -> None:
    distilbert = DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=2, n_heads=1))
    gpt2 = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=3, n_head=1))
    torch_own = nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=1)
    found = {
        type(model).__name__: [type(block).__name__ for block in repeated_blocks(model)]
        for model in (distilbert, gpt2, torch_own)
    }
    assert found == {
        "DistilBertModel": ["TransformerBlock"] * 2,
        "GPT2Model": ["GPT2Block"] * 3,
        "Transformer": ["TransformerEncoderLayer"] * 2 + ["TransformerDecoderLayer"],
    }


@pytest.mark.long
def test_it_compiles_the_layers_of_any_lightning_module() -> None:
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.encoder(x)
            return y

    torch.manual_seed(0)
    module = Module()
    eager = deepcopy(module)
    compile_layers(module)
    with watched() as found:
        for size in ((2, 3, 8), (4, 5, 8)):
            x = torch.randn(size, requires_grad=True)
            torch.testing.assert_close(module(x), eager(x))
    assert (found.graphs, found.breaks) == (1, ())


@pytest.mark.long
def test_a_first_layer_whose_input_needs_no_gradient_is_of_a_kind_of_its_own() -> None:
    model = network(INTEGER, INTEGER, INTEGER)
    model.get_submodule("bert.embeddings").requires_grad_(False)
    compile_layers(model)
    with watched() as found:
        step(model, batch(4, 8))
    assert (found.graphs, found.breaks) == (2, ())


def test_a_network_without_repeated_layers_is_refused() -> None:
    with pytest.raises(InputValueError, match="compile_layers: Sequential has no "):
        compile_layers(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])))


def test_copies_are_not_compiled_and_keys_stay() -> None:
    model = network(INTEGER)
    keys = list(model.state_dict())
    compile_layers(model)
    assert list(model.state_dict()) == keys
    with watched() as found:
        step(deepcopy(model), batch(2, 4))
    assert found.graphs == 0
