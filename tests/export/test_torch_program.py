"""Programs of torch.export compute what the models compute, without this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_layer import Every, every, inputs
from exported import net
from torch import nn

from lightning_adls import export
from lightning_adls.errors import InputValueError
from lightning_adls.formats.base import PART
from lightning_adls.models import bert
from lightning_adls.transforms import LoRA, Pack, Quantize


@pytest.fixture(scope="module")
def model() -> Every:
    return every(round_inputs=True)


@pytest.fixture(scope="module")
def path(model: Every, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "every.pt2"
    return export.program(model, path, inputs(model, 3), accuracy=0.5)


@pytest.mark.long
def test_any_number_of_rows_gives_the_same_bits(model: Every, path: Path) -> None:
    loaded = torch.export.load(path).module()
    for rows in (1, 17):
        given = inputs(model, rows)
        with torch.no_grad():
            pairs = zip(model.names, loaded(*given), model(*given), strict=True)
            assert [name for name, ours, theirs in pairs if not torch.equal(ours, theirs)] == []


def test_inputs_may_be_so_large_that_eager_torch_rounds_them_in_parts(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(512, 1)).eval()
    Quantize({"*": {"input": "MXInt(width=4)"}})(model)
    path = export.program(model, tmp_path / "a.pt2", torch.randn(3, 512))
    x = torch.randn(4 * PART // 512 + 1, 512)
    with torch.no_grad():
        assert torch.equal(torch.export.load(path).module()(x), model(x))


@pytest.mark.long
def test_a_process_without_the_package_computes_the_same_and_unpickles_nothing(
    model: Every, path: Path
) -> None:
    given = inputs(model, 5)
    torch.save(given, path.with_name("given.pt"))
    code = f"""
import pickle, sys, torch, torch.export.pt2_archive
def refuse(*args, **kwargs): raise AssertionError("something is unpickled")
given = torch.load("given.pt", weights_only=True)
pickle.load = pickle.loads = pickle.Unpickler = refuse
told = {{"lightning_adls.json": ""}}
program = torch.export.load({str(path)!r}, extra_files=told)
assert "lightning_adls" not in sys.modules
with torch.no_grad():
    torch.save(program.module()(*given), "found.pt")
assert "lightning_adls" not in sys.modules
called = [node.target for node in program.graph.nodes if node.op == "call_function"]
libraries = {{each.namespace for each in called if hasattr(each, "namespace")}}
assert libraries == {{"aten"}}, libraries
print(told["lightning_adls.json"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(path.with_name("found.pt"), weights_only=True)
    with torch.no_grad():
        assert all(map(torch.equal, found, model(*given)))
    assert json.loads(done.stdout)["facts"] == {"accuracy": 0.5}


@pytest.mark.long
def test_texts_may_have_any_length(tmp_path: Path) -> None:
    model = bert(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=64,
        max_position_embeddings=24,
    ).eval()
    Quantize({"*": "MXInt(width=4)"}, kinds=("Linear", "Embedding"))(model)
    loaded = torch.export.load(export.program(model, tmp_path / "bert.pt2")).module()
    for rows, length in ((1, 1), (3, 7), (5, 24)):
        ids = torch.randint(1, 60, (rows, length))
        mask = (torch.rand(rows, length) > 0.2).long()
        mask[:, 0] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        with torch.no_grad():
            assert torch.equal(loaded(**given), model(**given).logits)


class Parts(nn.Module):
    """Networks beside each other."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """An output of each."""
        return tuple(part(x.to(next(part.parameters()).dtype)) for part in self.parts)


def layers(text: str | None, backend: str = "standard") -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    if text is not None:
        Quantize({"*": text}, backend=backend)(model)
    return model


@pytest.mark.long
def test_packed_layers_adapters_other_arithmetic_and_data_types(tmp_path: Path) -> None:
    packed, adapted = layers("MXInt(width=8)"), layers("Integer")
    Pack()(packed)
    LoRA(rank=2, layers=("0",), trainable=("2.*",))(adapted)
    export.save(layers("Log"), tmp_path / "coded.safetensors")
    coded = export.load(tmp_path / "coded.safetensors", layers(None), packed=True)
    off = layers("Integer")
    off.get_submodule("0").enabled = False  # type: ignore[assignment]
    parts = (
        *(packed, adapted, coded, off, layers("MXInt(width=6)", backend="mase")),
        *(layers("Integer").bfloat16(), layers("MXInt").half(), layers("Integer").double()),
    )
    model, x = Parts(*parts).eval(), torch.randn(7, 64)
    loaded = torch.export.load(
        export.program(model, tmp_path / "parts.pt2", torch.zeros(1, 64))
    ).module()
    with torch.no_grad():
        pairs = zip(loaded(x), model(x), strict=True)
        assert [n for n, (ours, theirs) in enumerate(pairs) if not torch.equal(ours, theirs)] == []


def test_a_shared_weight_is_stored_once(tmp_path: Path) -> None:
    model = net("MXInt(width=4)")
    recipe = {"head": {"weight": "MXInt(width=4)"}}
    Quantize(recipe)(model)
    path = export.program(model, tmp_path / "net.pt2", torch.zeros(2, 5, dtype=torch.long))
    program = torch.export.load(path)
    weights = [w for w in program.state_dict.values() if w.shape == (30, 24)]
    assert len({w.data_ptr() for w in weights}) == 1
    x = torch.randint(30, (4, 5))
    with torch.no_grad():
        assert torch.equal(program.module()(x), model(x))


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputValueError, match=r"does not end in \.pt2"):
        export.program(layers("Integer"), tmp_path / "model.pt", torch.zeros(1, 64))
