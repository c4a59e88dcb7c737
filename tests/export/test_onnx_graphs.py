"""Graphs in ONNX compute, in ONNX Runtime and OpenVINO, what the models compute in torch."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_layer import INTEGERS, OTHERS, Every, every, inputs
from torch import Tensor, nn

from lightning_adls import export
from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.export import onnx_graph
from lightning_adls.formats import NumberFormat
from lightning_adls.models import bert
from lightning_adls.transforms import Quantize

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")

# Of the largest output: sums are added in another order.
TOLERANCE = 1e-5


def values_of(graph: Any) -> dict[str, Any]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}


def types_of(graph: Any, layer: str) -> set[str]:
    """Data types of what is stored of a layer, but for single numbers."""
    name = onnx.TensorProto.DataType.Name
    return {
        name(each.data_type)
        for each in graph.graph.initializer
        if each.name.startswith(f"{layer}.") and each.dims
    }


def run(path: Path, *tensors: Tensor) -> list[Tensor]:
    session = export.session(path, threads=1)
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
    return [torch.from_numpy(each.copy()) for each in found]


def error(ours: Tensor, expected: Tensor) -> float:
    """Of the largest element, what is off."""
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def model() -> Every:
    return every(round_inputs=False)


@pytest.fixture(scope="module")
def path(model: Every, folder: Path) -> Path:
    """Every format and kind of layer in one file, which was exported in train mode."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    given = inputs(model, 3)
    random = torch.get_rng_state()
    path = export.onnx(model, folder / "every.onnx", given, labels=["bad", "good"], accuracy=0.5)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    model.eval()
    return path


@pytest.fixture(scope="module")
def graph(path: Path) -> Any:
    return onnx.load(path)


@pytest.mark.parametrize("rows", [1, 17])
def test_any_number_of_rows_gives_what_torch_gives(model: Every, path: Path, rows: int) -> None:
    given = inputs(model, rows)
    with torch.no_grad():
        expected = model(*given)
    found = run(path, *given)
    off = {
        name: error(ours, theirs)
        for name, ours, theirs in zip(model.names, found, expected, strict=True)
        if error(ours, theirs) > TOLERANCE
    }
    assert off == {}


def test_inputs_are_rounded_to_the_bit(model: Every, path: Path) -> None:
    # The layers of these outputs multiply by one: no element lies on the other side of a tie.
    given = inputs(model, 17)
    with torch.no_grad():
        expected = dict(zip(model.names, model(*given), strict=True))
    found = dict(zip(model.names, run(path, *given), strict=True))
    names = [f"inputs {text}" for text in INTEGERS]
    assert [name for name in names if not torch.equal(found[name], expected[name])] == []
    assert all(len(expected[name].unique()) > 2 for name in names)


def test_the_file_is_checked_and_says_what_it_is(graph: Any) -> None:
    onnx.checker.check_model(graph, full_check=True)
    assert [each.version for each in graph.opset_import if not each.domain] == [21]
    assert graph.producer_name == "lightning_adls"
    told = {each.key: json.loads(each.value) for each in graph.metadata_props}
    assert told["facts"] == {"accuracy": 0.5}
    assert told["labels"] == ["bad", "good"]
    assert told["layers"]["formats.0"]["weight"] == "Integer(width=8, frac_width=5)"
    assert told["versions"]["torch"] == torch.__version__
    assert {each.type.tensor_type.shape.dim[0].dim_param for each in graph.graph.input} == {"batch"}


def test_weights_are_stored_as_integers_of_the_format(model: Every, graph: Any) -> None:
    stored = values_of(graph)
    for number, text in enumerate(INTEGERS):
        layer: Any = model.formats[number]
        fmt: Any = NumberFormat.parse(text)
        for role, values in {"weight": layer.weight, "bias": layer.bias}.items():
            scales = layer.scales_of(role)
            step = 2.0**-fmt.frac_width if scales is None else float(scales.detach().abs())
            least = -(2 ** (fmt.width - 1)) if fmt.signed else 0
            most = 2 ** (fmt.width - fmt.signed) - 1
            near = np.floor if getattr(fmt, "rounding", "") == "floor" else np.rint
            ratio = (values.detach() / torch.tensor(step)).numpy()
            expected = np.clip(near(ratio), least, most).astype(int)
            kind = "nibbles.packed" if fmt.width <= 4 else "integers"
            ours = stored[f"formats.{number}.held.{role}.{kind}"].astype(int)
            assert np.array_equal(ours, expected), (text, role)


def test_integers_take_the_bits_of_their_type(graph: Any) -> None:
    for number, text in enumerate(INTEGERS):
        fmt: Any = NumberFormat.parse(text)
        bits = next(bits for bits in (4, 8, 16) if fmt.width <= bits)
        assert types_of(graph, f"formats.{number}") == {f"{'' if fmt.signed else 'U'}INT{bits}"}
    kinds = [node.op_type for node in graph.graph.node]
    # Of each format one, which its two layers share, and of the kinds but for embeddings.
    assert kinds.count("QuantizeLinear") >= len(INTEGERS) + 9


def test_weights_of_other_formats_are_stored_rounded_and_small(graph: Any) -> None:
    stored = values_of(graph)
    for number, text in enumerate(OTHERS, len(INTEGERS)):
        weight = [
            array
            for name, array in stored.items()
            if name.startswith(f"formats.{number}.") and array.size == 320
        ]
        widths = [array.dtype.itemsize for array in weight]
        assert widths == ([4] if "width=24" in text else [1]), text
    # More than 256 different values, which 16 bits hold.
    assert types_of(graph, "fine") == {"FLOAT16", "FLOAT"}
    assert stored["fine.weight.half"].shape == (64, 40)


def bert_like(text: str = "Integer(width=8, frac_width=5)") -> nn.Module:
    model = bert(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    recipe = {"*": text, "*.query": "LearnedInteger(width=4)", "*.intermediate.*": "MXInt(width=4)"}
    Quantize(recipe, kinds=("Linear", "Embedding"))(model)
    model(input_ids=torch.randint(1, 60, (8, 12)))
    return model.eval()


def texts(rows: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(1, 60, (rows, length))
    mask = torch.ones_like(ids)
    mask[-1, length // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return bert_like()


@pytest.fixture(scope="module")
def classifier_path(classifier: nn.Module, folder: Path) -> Path:
    return export.onnx(TextClassifier(classifier).eval(), folder / "sub" / "bert.onnx")


SIZES = [(1, 1), (3, 7), (5, 24), (16, 2)]


def test_a_classifier_takes_texts_of_any_number_and_length(
    classifier: nn.Module, classifier_path: Path
) -> None:
    flipped = elements = 0
    for size in SIZES:
        given = texts(*size)
        with torch.no_grad():
            expected = classifier(**given).logits
        (found,) = run(classifier_path, *given.values())
        # A sum that is off in its last bit may lie on the other side of a tie of what rounds next.
        flipped += int(((found - expected).abs() > TOLERANCE * expected.abs().max()).sum())
        elements += expected.numel()
    assert flipped <= elements // 10


def test_names_and_integers_of_a_classifier(classifier_path: Path) -> None:
    graph = onnx.load(classifier_path)
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    free = ["batch", "length"]
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert sizes == {**dict.fromkeys(names, free), "logits": ["batch", 2]}
    stored = {each.name: each for each in graph.graph.initializer}
    weights = {n: v for n, v in values_of(graph).items() if n.startswith("network.")}
    large = {n: v for n, v in weights.items() if v.size >= 24 * 32}
    assert {array.dtype.itemsize for array in large.values()} == {1}
    # Rows of embeddings are scaled after they are taken, and weights are stored as multiplied.
    integers = [node for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    ends = {node.input[0]: node.output[0] for node in integers if node.input[0] in stored}
    used = {node.op_type for node in graph.graph.node if set(node.input) & set(ends.values())}
    assert used <= {"MatMul", "Gemm", "Add"}
    took = {n.input[0].rpartition(".")[2] for n in graph.graph.node if n.op_type == "Gather"}
    assert "integers" in took


def test_openvino_computes_the_same(classifier: nn.Module, classifier_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'export' is not installed")
    given = texts(4, 9)
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(classifier_path), "CPU", precise)
    found = compiled({name: tensor.numpy() for name, tensor in given.items()})["logits"]
    with torch.no_grad():
        expected = classifier(**given).logits
    # OpenVINO may round between its layers once more.
    assert error(torch.from_numpy(found.copy()), expected) < 0.02


def linear(recipe: Any = "Integer", fit: bool = True) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 2))
    Quantize({"*": recipe})(model)
    if fit:
        model(torch.randn(4, 8))
    return model.eval()


def with_nan() -> nn.Module:
    model = linear()
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    return model


def by_mase(model: nn.Sequential) -> nn.Module:
    layer: Any = model[0]
    layer.__class__ = type("ChopLinear", (type(layer),), {"backend": "chop"})
    return model


def switched() -> nn.Module:
    model = linear("LearnedInteger")
    layer: Any = model[0]
    layer.learn_by_format({"weight": (NumberFormat.parse("LearnedInteger"),)})
    return model


def parametrised() -> nn.Module:
    model = linear()
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    return model


def refusals() -> Iterator[tuple[nn.Module, Any, str]]:
    x = torch.zeros(2, 8)
    yield with_nan(), x, "layer '0' of .*Integer.* has a NaN in its weight"
    yield by_mase(linear()), x, "layer '0' of .*Integer.* is computed by MASE's own code"
    yield switched(), x, "layer '0' is switched between formats"
    yield parametrised(), x, "layer '0' of .* has a parametrised weight"
    yield linear("LearnedInteger", fit=False), x, "layer '0' has input=LearnedInteger.* not fitted"
    yield linear().bfloat16(), x, "'0.weight' is of bfloat16"
    yield linear(), None, "inputs=None, and Sequential is no classifier"
    yield linear(), (), "inputs have first dimensions"
    yield linear(), torch.tensor(1.0), "inputs\\['input'\\] has 0 dimensions"
    yield linear(), {"input": [1.0]}, "inputs\\['input'\\] is a list"


@pytest.mark.parametrize("case", range(10))
def test_what_cannot_be_exported_is_refused_in_a_sentence_before_any_work(
    case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "frozen", None)
    model, given, message = list(refusals())[case]
    with pytest.raises(InputValueError, match=message) as raised:
        export.onnx(model, tmp_path / "model.onnx", given)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_too_large_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_LARGEST", 8)
    with pytest.raises(InputValueError, match="a file in ONNX holds 2"):
        export.onnx(linear(), tmp_path / "model.onnx", torch.zeros(2, 8))


def test_a_missing_package_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'lightning_adls\[export\]'"):
        export.onnx(linear(), tmp_path / "model.onnx", torch.zeros(2, 8))
    with pytest.raises(MissingPackageError, match=r"pip install 'lightning_adls\[export\]'"):
        export.session(tmp_path / "model.onnx")


def test_what_torch_cannot_trace_is_said_in_a_sentence(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    older = tmp_path / "model.pt2"
    older.write_text("older")
    with pytest.raises(InputValueError, match="cannot export Deciding") as raised:
        export.program(Deciding(), older, torch.ones(2, 8))
    assert len(str(raised.value).splitlines()) == 1
    assert older.read_text() == "older"


def test_the_package_imports_no_engine() -> None:
    code = """
import sys
import lightning_adls.export
assert not {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
