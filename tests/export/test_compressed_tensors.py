"""Folders for compressed-tensors: the library and Transformers compute what was exported."""

import ast
import json
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CompressedTensorsConfig,
    PreTrainedModel,
)

from lightning_adls import TextClassifier
from lightning_adls.data.tokens import load_encoder
from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.export import compressed, compressed_network, compressed_tensors, load, save
from lightning_adls.export.schemes import weight_scale
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import QuantizedLayer
from lightning_adls.models import bert, sequence_classifier
from lightning_adls.transforms import LoRA, Pack, Prune, PruneStructured, Quantize

X = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(0))

WRITTEN = {"Integer", "LearnedInteger", "MXInt", "BlockFP", "MXFP", "Ternary"}
# ElasticBinary is written where it has a zero.
REFUSED = {
    *("Binary", "BlockLog", "BlockMinifloat", "ElasticBinary", "Log", "MinifloatDenorm"),
    *("MinifloatIEEE", "ResidualSign"),
}
WIDTHS = range(2, 9)
MX = tuple(f"MXFP(exponent_width={e}, mantissa_width={m})" for e, m in ((4, 3), (2, 3), (2, 1)))
INTEGERS = (
    *(f"Integer(width={width}, frac_width={width + 2})" for width in WIDTHS),
    *(f"Integer(width={width}, frac_width={width + 3}, signed=False)" for width in WIDTHS),
    *(f"LearnedInteger(width={width})" for width in WIDTHS),
    *(f"LearnedInteger(width={width}, signed=False)" for width in (2, 8)),
    *(f"MXInt(width={width})" for width in WIDTHS),
    *(f"BlockFP(width={width})" for width in WIDTHS),
    *("Integer(width=6, frac_width=-3)", "Integer(width=6, frac_width=120, rounding=floor)"),
    *("ElasticBinary(signed=False)", "BlockFP(width=5, exponent_width=2)"),
    *(f"Ternary(scale={scale})" for scale in ("none", "per_tensor", "per_channel")),
    *(f"MXInt(width=5, block_size={size})" for size in (-1, 4, 64, 96, (2, 16), (-1, -1))),
)
FORMATS = (*INTEGERS, *MX, *(f"MXFP(block_size={size})" for size in (-1, 64, (3, 32))))
INPUTS = (*INTEGERS[:7], *INTEGERS[14:21], "LearnedInteger(width=8)")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def plain() -> PreTrainedModel:
    """Three layers, 20 linear ones, rows of 64 and 192."""
    torch.manual_seed(0)
    network = bert(vocab_size=50, hidden_size=64, num_hidden_layers=3, intermediate_size=192)
    assert isinstance(network, PreTrainedModel)
    network.eval()
    return network


def linear_layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]


def quantized(plain: nn.Module, recipe: dict[str, Any], **options: Any) -> Any:
    """A copy whose learned scales are those of one batch."""
    network = deepcopy(plain)
    Quantize(recipe, **options)(network)
    network.train()(X)
    return network.eval()


def in_turn(plain: nn.Module, texts: Sequence[str], role: str) -> Iterator[Any]:
    """Networks with as many formats as they have layers, of which the last ones stay plain."""
    names = linear_layers(plain)
    for start in range(0, len(texts), len(names)):
        formats = zip(names, texts[start : start + len(names)], strict=False)
        yield quantized(plain, {name: {role: text} for name, text in formats})


def read(folder: Path) -> Any:
    """The network as Transformers makes it, its weights decompressed by the library."""
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    network.hf_quantizer.compressor.decompress_model(network)
    return network.to(torch.float32)  # what is of MX comes in bfloat16


def decompressed(folder: Path) -> dict[str, Tensor]:
    """Each quantised weight, by the library alone."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    found = {}
    for scheme in QuantizationConfig.model_validate(config).config_groups.values():
        assert not isinstance(scheme, list)
        compressor = BaseCompressor.get_value_from_registry(str(scheme.format))
        for name in scheme.targets:
            own = {
                key.removeprefix(f"{name}."): t
                for key, t in tensors.items()
                if key.startswith(f"{name}.")
            }
            found[name] = compressor.decompress(own, scheme)["weight"]
    return found


def assert_same(network: Any, folder: Path) -> None:
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLayer) and module.formats.weight is not None
    }
    weights = decompressed(folder)
    assert weights.keys() == layers.keys()
    for name, layer in layers.items():
        assert torch.equal(weights[name].float(), layer.rounded_weight()), layer.formats
    assert torch.equal(read(folder)(X).logits, network(X).logits)


def test_every_format_is_written_or_refused() -> None:
    assert set(NumberFormat.classes) == WRITTEN | REFUSED
    assert {NumberFormat.parse(text).__class__.__name__ for text in FORMATS} >= WRITTEN


def test_weights_are_those_that_layers_multiply_with(
    plain: PreTrainedModel, tmp_path: Path
) -> None:
    for number, network in enumerate(in_turn(plain, FORMATS, "weight")):
        assert_same(network, compressed_tensors(network, tmp_path / str(number)))


def test_integers_take_their_bits(plain: PreTrainedModel, tmp_path: Path) -> None:
    names = linear_layers(plain)
    recipe = {
        name: {"weight": f"Integer(width={width}, frac_width=4)"}
        for name, width in zip(names, WIDTHS, strict=False)
    } | {names[7]: {"weight": "ElasticBinary(signed=False)"}}
    tensors = load_file(
        compressed_tensors(quantized(plain, recipe), tmp_path / "a") / "model.safetensors"
    )
    modules = dict(plain.named_modules())
    for name, width in zip(names, (*WIDTHS, 1), strict=False):
        elements = modules[name].weight.numel()
        assert tensors[f"{name}.weight_packed"].nbytes * 8 == width * elements


@pytest.mark.parametrize("text", MX)
def test_mx_takes_eight_bits_for_a_scale(text: str, plain: PreTrainedModel, tmp_path: Path) -> None:
    fmt, name = NumberFormat.parse(text), linear_layers(plain)[0]
    network = quantized(plain, {name: {"weight": text}})
    tensors = load_file(compressed_tensors(network, tmp_path / "a") / "model.safetensors")
    stored = [t for key, t in tensors.items() if key.startswith(f"{name}.weight")]
    assert sum(t.nbytes for t in stored) * 8 == fmt.storage_bits((64, 64))


def test_scales_of_mx_are_any_power_of_two(plain: PreTrainedModel, tmp_path: Path) -> None:
    network = deepcopy(plain)
    names = linear_layers(plain)[:3]
    for name in names:
        weight = network.get_parameter(f"{name}.weight")
        weight.copy_(torch.randn(64, 64) * 2.0 ** torch.linspace(-110, 110, 64).round()[:, None])
        weight[5] = 0
    recipe = {name: {"weight": text} for name, text in zip(names, MX, strict=True)}
    network = quantized(network, recipe)
    weights = decompressed(compressed_tensors(network, tmp_path / "a"))
    for name in names:
        layer: Any = network.get_submodule(name)
        assert torch.equal(weights[name].float(), layer.rounded_weight())


def test_weights_that_the_library_underflows_are_refused(
    plain: PreTrainedModel, tmp_path: Path
) -> None:
    network = deepcopy(plain)
    name = linear_layers(plain)[0]
    network.get_parameter(f"{name}.weight").mul_(2.0**-125)
    network = quantized(network, {name: {"weight": MX[0]}})
    with pytest.raises(InputValueError, match=rf"{name}.*MXFP.*decompressed to other values"):
        compressed_tensors(network, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_transformers_alone_loads_and_runs_it(plain: PreTrainedModel, tmp_path: Path) -> None:
    network = quantized(plain, {"*": {"weight": "MXInt(width=3)"}})
    folder = compressed_tensors(network, tmp_path / "a")
    for options in ({}, {"quantization_config": CompressedTensorsConfig(dequantize=True)}):
        loaded = AutoModelForSequenceClassification.from_pretrained(folder, **options)
        assert torch.equal(loaded(X).logits, network(X).logits)


def test_the_package_loads_and_runs_it(
    plain: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = quantized(plain, {"*": {"weight": MX[2]}, "classifier": {"weight": INTEGERS[0]}})
    loaded: Any = sequence_classifier(str(compressed_tensors(network, tmp_path / "a"))).eval()
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded(X).logits, network(X).logits)
    available = "transformers.utils.quantization_config.is_compressed_tensors_available"
    monkeypatch.setattr(available, lambda: False)
    with pytest.raises(MissingPackageError, match="pip install"):
        sequence_classifier(str(tmp_path / "a"))


def test_networks_of_sixteen_bits(plain: PreTrainedModel, tmp_path: Path) -> None:
    texts = ("Integer(width=8, frac_width=8)", "MXInt(width=8)", *MX)
    names = linear_layers(plain)
    recipe = {name: {"weight": text} for name, text in zip(names, texts, strict=False)}
    recipe[names[6]] = {"weight": MX[2], "input": "Integer(width=8, frac_width=5)"}
    network = quantized(deepcopy(plain).bfloat16(), recipe)
    folder = compressed_tensors(network, tmp_path / "a")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded(X).logits, network(X).logits)


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("distilbert", {"dim": 64, "n_layers": 1, "n_heads": 2, "hidden_dim": 96}),
        (
            "roberta",
            {
                "hidden_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 96,
                "pad_token_id": 0,
            },
        ),
    ],
)
def test_other_networks(model_type: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    pad = sizes.pop("pad_token_id", None)
    made = sequence_classifier(model_type=model_type, config=sizes, vocab_size=50, pad_token_id=pad)
    network = quantized(made, {"*": {"weight": "LearnedInteger(width=3)"}})
    assert_same(network, compressed_tensors(network, tmp_path / "a"))


def test_masks_are_zeros_and_biases_are_rounded(plain: PreTrainedModel, tmp_path: Path) -> None:
    network = deepcopy(plain)
    Prune(0.6)(network)
    # Of a layer that rounds nothing a mask and a bias are there all the same.
    names = linear_layers(network)
    texts = (*MX, "LearnedInteger(width=4, signed=False)", "BlockFP(width=3)", "Ternary")
    recipe: dict[str, Any] = {
        name: {"weight": text, "bias": "MinifloatIEEE"}
        for name, text in zip(names, texts, strict=False)
    } | {names[7]: {"bias": "LearnedInteger(width=3)"}}
    for name in names:
        network.get_parameter(f"{name}.bias").normal_()
    network = quantized(network, recipe)
    folder = compressed_tensors(network, tmp_path / "a")
    assert_same(network, folder)
    for name, weight in decompressed(folder).items():
        assert (weight == 0)[~network.get_submodule(name).weight_mask].all()


def test_packed_and_switched_off_layers(plain: PreTrainedModel, tmp_path: Path) -> None:
    names = linear_layers(plain)
    recipe = {
        names[0]: {"weight": "MXInt(width=8)", "input": "Integer(width=8, frac_width=4)"},
        names[1]: {"weight": "Ternary(scale=per_channel)"},
        names[2]: {"weight": "Binary"},
    }
    network = quantized(plain, recipe)
    network.get_submodule(names[2]).enabled = False
    save(network, tmp_path / "own.safetensors")
    loaded = load(tmp_path / "own.safetensors", packed=True)
    Pack(layers=(names[0],))(network)
    for model in (network, loaded):
        folder = compressed_tensors(model, tmp_path / "a")
        assert decompressed(folder).keys() == set(names[:2])
        assert torch.equal(read(folder)(X).logits, model(X).logits)


def test_inputs_of_integers_are_rounded_alike(plain: PreTrainedModel, tmp_path: Path) -> None:
    recipe = {
        name: {"input": text, "weight": weight}
        for name, text, weight in zip(
            linear_layers(plain), INPUTS, (*FORMATS[-12:], None, None, INTEGERS[6]), strict=False
        )
    }
    network = quantized(plain, recipe)
    folder = compressed_tensors(network, tmp_path / "a")
    assert torch.equal(read(folder)(X).logits, network(X).logits)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    layouts = {group["format"] for group in config["config_groups"].values()}
    assert {"dense", "int-quantized", "pack-quantized"} <= layouts
    assert config["format"] == "mixed-precision"


def by_the_library(x: Tensor, element: Any, largest: float, carries_at: float) -> Tensor:
    """MX as the library rounds inputs: large blocks have the scale of the next power of two."""
    blocks = x.double().view(-1, 32)
    significand, exponent = blocks.abs().amax(-1, keepdim=True).frexp()  # 0.5 to 1
    exponent = exponent - 1 + (2 * significand >= carries_at).int() - math.floor(math.log2(largest))
    scale = torch.ldexp(torch.ones_like(significand), exponent)
    elements = (blocks / scale).clamp(-largest, largest).numpy().astype(element)
    return (torch.from_numpy(elements.astype(np.float64)) * scale).view_as(x).float()


def test_other_inputs_are_rounded_as_documented(plain: PreTrainedModel, tmp_path: Path) -> None:
    x = torch.randn(200, 64)
    rules = (
        (ml_dtypes.float8_e4m3fn, 448.0, 1.75),
        (ml_dtypes.float6_e2m3fn, 7.5, 1.9375),
        (ml_dtypes.float4_e2m1fn, 6.0, 1.75),
    )
    names = linear_layers(plain)[:4]
    unsigned = "Integer(width=8, frac_width=6, signed=False)"
    recipe = {n: {"input": text} for n, text in zip(names, (*MX, unsigned), strict=True)}
    network = quantized(plain, recipe)
    with pytest.raises(InputValueError, match="approximate_inputs=True permits"):
        compressed_tensors(network, tmp_path / "a")
    loaded = read(compressed_tensors(network, tmp_path / "a", approximate_inputs=True))
    for name, rule in zip(names, rules, strict=False):
        ours, plain_layer = network.get_submodule(name), plain.get_submodule(name)
        rounded = by_the_library(x, *rule)
        assert torch.equal(loaded.get_submodule(name)(x), plain_layer(rounded))
        # Where no scale is doubled it is what our layer does.
        own = ours.rounded_input(x)
        significand = x.view(-1, 32).abs().amax(-1).frexp().mantissa
        alike = (own == rounded).view(-1, 32).all(-1)
        assert alike[2 * significand < rule[2]].all()
        assert 0.6 < alike.float().mean() < 1
    ours, theirs = network.get_submodule(names[3]), loaded.get_submodule(names[3])
    ties = torch.arange(-64, 8 * 64 * 4 - 64).view(-1, 64) / 128
    assert torch.equal(theirs(ties), ours(ties))


def test_labels_and_tokenizer_are_in_the_folder(plain: PreTrainedModel, tmp_path: Path) -> None:
    load_encoder(None).to_save(None).save_pretrained(str(tmp_path / "tokenizer"))
    model = TextClassifier(quantized(plain, {"*": {"weight": INTEGERS[2]}}))
    folder = compressed_tensors(
        model, tmp_path / "a", labels=["bad", "good"], tokenizer=tmp_path / "tokenizer"
    )
    loaded = read(folder)
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == 512
    assert tokenizer("a good film")["input_ids"] == tokenizer_ids(tmp_path / "tokenizer")
    assert torch.equal(loaded(X).logits, model.model(X).logits)


def tokenizer_ids(folder: Path) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder)("a good film")["input_ids"]
    return ids


# What is refused, in one sentence and before any work.


def refused(model: nn.Module, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(InputValueError) as raised:
        compressed_tensors(model, tmp_path / "a", **options)
    assert not list(tmp_path.iterdir())
    text = str(raised.value)
    assert text.startswith("export: ")
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("role", ["input", "weight"])
def test_other_formats_are_refused_by_layer_and_format(
    role: str, plain: PreTrainedModel, tmp_path: Path
) -> None:
    others = {"MXFP(exponent_width=5, mantissa_width=2)", "Integer(width=9)", "MXInt(width=12)"}
    others |= {"LearnedInteger(width=10)"}
    if role == "input":
        others |= {"MXInt", "BlockFP", "Ternary", "Integer(rounding=floor)"}
    texts = sorted(REFUSED | others)
    recipe = {name: {role: text} for name, text in zip(linear_layers(plain), texts, strict=False)}
    network = quantized(plain, recipe)
    text = refused(network, tmp_path, approximate_inputs=True)
    for name, each in recipe.items():
        assert f"{name!r} ({role}={NumberFormat.parse(each[role])}: " in text


def test_layers_that_are_refused_alike_are_counted(plain: PreTrainedModel, tmp_path: Path) -> None:
    text = refused(quantized(plain, {"*": {"weight": "Binary"}}), tmp_path)
    assert "self.value' and 17 more (weight=Binary(" in text
    both = refused(quantized(plain, {"classifier": "Log"}), tmp_path)
    assert "'classifier' (input=Log(" in both
    assert "; weight=Log(" in both


@pytest.mark.parametrize(
    "text", ["MXInt(width=4, block_size=24)", "MXFP(block_size=16)", "MXFP", "BlockFP(width=4)"]
)
def test_ragged_rows_are_refused(text: str, tmp_path: Path) -> None:
    network = bert(vocab_size=50, hidden_size=40, num_hidden_layers=1, intermediate_size=56)
    quantized_network = quantized(network, {"*.query": {"weight": text}})
    assert "rows of 40" in refused(quantized_network, tmp_path)


def test_networks_that_transformers_would_not_make_are_refused(
    plain: PreTrainedModel, tmp_path: Path
) -> None:
    recipe = {"*": {"weight": INTEGERS[2]}}
    assert "is no network of Transformers" in refused(nn.Sequential(nn.Linear(4, 4)), tmp_path)
    adapted = quantized(plain, recipe)
    LoRA()(adapted)
    assert "query.base_layer" in refused(adapted, tmp_path)
    pruned = deepcopy(plain)
    PruneStructured(neurons=0.5)(pruned)
    assert "intermediate.dense" in refused(quantized(pruned, recipe), tmp_path)
    mixed = quantized(plain, recipe)
    mixed.classifier.bfloat16()
    assert "torch.bfloat16, torch.float32" in refused(mixed, tmp_path)


def test_layers_that_compute_otherwise_are_refused(plain: PreTrainedModel, tmp_path: Path) -> None:
    network = deepcopy(plain)
    Quantize({"*": "Integer"}, backend="mase")(network)
    assert "backend=mase" in refused(network, tmp_path)
    network = quantized(plain, {"*": {"weight": "Integer"}})
    network.classifier.input_sparsity = 0.5
    assert "'classifier' (input_sparsity=0.5)" in refused(network, tmp_path)
    network = deepcopy(plain)
    Quantize({"classifier": {"input": "LearnedInteger"}})(network)
    assert "not fitted" in refused(network, tmp_path)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    network = deepcopy(plain)
    Quantize({"*": {"weight": "Integer"}}, kinds=("Embedding",))(network)
    assert "(a quantised Embedding)" in refused(network, tmp_path)
    gpt2 = sequence_classifier(model_type="gpt2", config=sizes, vocab_size=50, pad_token_id=0)
    Quantize({"*": {"weight": "Integer"}})(gpt2)
    assert "a quantised TransformersConv1D" in refused(gpt2, tmp_path)


def test_wrong_arguments_are_refused(plain: PreTrainedModel, tmp_path: Path) -> None:
    assert "no layer of the network rounds" in refused(plain, tmp_path)
    network = quantized(plain, {"classifier": {"weight": "Integer"}})
    assert "labels=['a'] are 1" in refused(network, tmp_path, labels=["a"])
    with pytest.raises(InputValueError, match=r"tokenizer='\./none'"):
        compressed_tensors(network, tmp_path / "a", tokenizer="./none")
    narrow = quantized(deepcopy(plain).half(), {"*": {"weight": "MXInt(width=8)"}})
    narrow.classifier.weight.mul_(2.0**-15)
    assert "a scale that torch.float16 cannot hold" in refused(narrow, tmp_path)
    broken = quantized(plain, {"*": {"weight": "Integer"}})
    broken.classifier.weight[0, 0] = torch.nan
    assert "'classifier' holds NaN" in refused(broken, tmp_path)


def test_a_missing_library_is_named(
    plain: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match="pip install"):
        compressed_tensors(plain, tmp_path / "a")


def test_importing_the_package_does_not_import_the_library() -> None:
    for path in Path(compressed.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert ast.unparse(node).split()[1].split(".")[0] != "compressed_tensors"


# The folder is whole, or it is the older one.


@pytest.fixture
def small(tmp_path: Path) -> Any:
    network = bert(vocab_size=50, hidden_size=32, num_hidden_layers=1, intermediate_size=64)
    return quantized(
        network, {"*": {"weight": "Integer(width=5, frac_width=5)", "input": "Integer"}}
    )


def test_a_folder_is_replaced_by_a_whole_one_only(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_encoder(None).to_save(None)
    folder = compressed_tensors(small, tmp_path / "a", tokenizer=tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(compressed, "save_file", fail)
        with pytest.raises(InputValueError, match=r"cannot be written.*No space left"):
            compressed_tensors(small, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    compressed_tensors(small, folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_someone_else_is_refused(small: Any, tmp_path: Path) -> None:
    folder = compressed_tensors(small, tmp_path / "a")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputValueError, match=r"not written by .*'notes\.txt'"):
        compressed_tensors(small, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputValueError, match=r"not written by .*'config\.json'"):
        compressed_tensors(small, folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputValueError, match="not written by"):
        compressed_tensors(small, tmp_path / "file")


# What is wrong in a folder is found before it has its name.


@pytest.mark.parametrize("part", ["weight_scale", "input_scale", "weight_packed", "bias"])
def test_wrong_numbers_are_found(
    part: str, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_wrong(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        wrong = dict(tensors)
        tensor = wrong[f"classifier.{part}"].clone()
        wrong[f"classifier.{part}"] = tensor ^ 1 if "packed" in part else tensor * 2 + 1
        save_file(wrong, path, metadata)

    monkeypatch.setattr(compressed, "save_file", save_wrong)
    with pytest.raises(InputValueError, match=r"'classifier.*(other values)"):
        compressed_tensors(small, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_wrong_scale_of_ours_is_found(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_network, "weight_scale", lambda *a: weight_scale(*a) * 2)
    with pytest.raises(InputValueError, match="decompressed to other values"):
        compressed_tensors(small, tmp_path / "a")


def test_a_layer_that_no_group_names_is_found(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = compressed_network.CompressedNetwork.quantization_config

    def without_one(self: Any) -> dict[str, Any]:
        config = right(self)
        config["config_groups"]["group_0"]["targets"].remove("classifier")
        return config

    monkeypatch.setattr(compressed_network.CompressedNetwork, "quantization_config", without_one)
    with pytest.raises(InputValueError, match="'classifier' is taken for another layer"):
        compressed_tensors(small, tmp_path / "a")
