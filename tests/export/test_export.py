"""What is loaded computes what was saved, bit for bit, from as many bits as its formats count."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Net, net
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.export import describe, load, save
from lightning_adls.formats import MXInt, NumberFormat, parse
from lightning_adls.layers import LayerFormats, QuantizedLayer, QuantizedLinear
from lightning_adls.layers.coded_weight import CodedWeight
from lightning_adls.models import bert, sequence_classifier
from lightning_adls.transforms import LoRA, Pack, Prune, Quantize
from lightning_adls.transforms.cost import costs

VARIANTS = (
    "Integer(width=3, frac_width=2)",
    "Binary(scale=per_tensor)",
    "Ternary(scale=per_channel)",
    "ResidualSign(levels=3, scale=per_channel)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "MXInt(width=3, block_size=-1)",
    "MXFP(exponent_width=2, mantissa_width=1)",
)
# A format that is added to the registry is here by itself.
FORMATS = (*NumberFormat.classes, *VARIANTS)
X = torch.randint(30, (3, 7), generator=torch.Generator().manual_seed(0))
WAYS: dict[str, dict[str, Any]] = {
    "decoded": {},
    "packed": {"packed": True},
    "some kept": {"packed": True, "keep_bytes": 3000},
}

every_format = pytest.mark.parametrize("text", FORMATS)
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """Torch multiplies in another order with a weight that can have one."""
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def fitted(model: nn.Module) -> nn.Module:
    """Scales that are learned are those of one training batch."""
    model.train()(X)
    return model.eval()


def coded(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if isinstance(p, CodedWeight)]


@every_format
@pytest.mark.parametrize("sparsity", [0.0, 0.3])
def test_outputs_are_those_that_were_saved(text: str, sparsity: float, path: Path) -> None:
    model = fitted(net(text, sparsity))
    expected = model(X)
    save(model, path)
    torch.manual_seed(1)
    for way in WAYS.values():
        loaded = load(path, Net, **way)
        assert not loaded.training
        assert torch.equal(loaded(X), expected)
        assert loaded.head.weight is loaded.embedding.weight  # type: ignore[union-attr]
        assert not way or coded(loaded) == ["embedding.weight", "conv.weight"]


@every_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_everything_keeps_its_data_type(dtype: torch.dtype, way: str, path: Path) -> None:
    model = net("MXInt(width=4)", 0.5).to(dtype)
    expected = model(X)
    save(model, path)
    loaded = load(path, Net, **WAYS[way])
    assert torch.equal(loaded(X), expected)
    assert loaded(X).dtype == dtype
    kinds = {key: tensor.dtype for key, tensor in model.state_dict().items() if "mask" not in key}
    assert {k: t.dtype for k, t in loaded.state_dict().items() if "mask" not in k} == kinds


@given(
    st.sampled_from(FORMATS),
    st.sampled_from([None, *FORMATS]),
    st.floats(0, 0.95),
    st.sampled_from(sorted(WAYS)),
)
def test_mixes_of_formats_stay_what_they_are(
    tmp_path_factory: pytest.TempPathFactory, weight: str, other: str | None, share: float, way: str
) -> None:
    path = tmp_path_factory.mktemp("mix") / "a.safetensors"
    model = Net()
    Prune(share, layers=("conv",))(model)
    Quantize({"conv": {"weight": weight, "input": other}, "head": other})(model)
    fitted(model)
    expected = model(X)
    save(model, path)
    assert torch.equal(load(path, Net, **WAYS[way])(X), expected)


@every_format
@pytest.mark.parametrize("sparsity", [0.0, 0.3])
def test_the_file_is_as_large_as_its_information(text: str, sparsity: float, path: Path) -> None:
    """Within 2 %, header and all, where the weights are as large as those of a BERT."""
    model = nn.Sequential(nn.Linear(1024, 1024))
    if sparsity:
        Prune(sparsity)(model)
    Quantize({"*": {"weight": text}})(model)
    fmt, bits = parse(text), 0
    for layer in model:
        assert isinstance(layer, QuantizedLayer)
        count = layer.weight.numel()
        weight = fmt.storage_bits(layer.to_rows(layer.weight).shape)
        if (mask := layer.weight_mask) is not None:
            sparse = weight - (count - int(mask.sum())) * fmt.code_bits + count
            has_zero = not text.startswith(("Binary", "ElasticBinary", "ResidualSign"))
            weight = min(weight, sparse) if has_zero else sparse
        scales = [layer.scales_of("weight"), layer.fitted_of("weight"), layer._parameters["bias"]]
        bits += weight + sum(32 * s.numel() for s in scales if s is not None)
    save(model, path)
    assert path.stat().st_size * 8 <= 1.02 * bits


def test_unrounded_weights_with_a_mask_are_kept_without_their_zeros(path: Path) -> None:
    model = net(None, 0.9)
    expected = model(X)
    save(model, path)
    with safe_open(path, "pt") as file:
        for name in ("conv", "embedding"):
            kept = int(model.get_submodule(name).weight_mask.sum())  # type: ignore
            assert file.get_tensor(f"{name}.weight.values").shape == (kept,)
            assert f"{name}.weight" not in file.keys()  # noqa: SIM118
    for way in ({}, {"packed": True}):
        assert torch.equal(load(path, Net, **way)(X), expected)


def test_masks_come_back(path: Path) -> None:
    model = net("MXInt(width=8)", 0.5)
    save(model, path)
    loaded = load(path, Net)
    for name in ("conv", "head", "embedding"):
        ours, theirs = (m.get_submodule(name).weight_mask for m in (model, loaded))
        assert torch.equal(ours, theirs)  # type: ignore[arg-type]
    assert costs(loaded) == costs(model)


def test_what_others_round_otherwise_is_stored_in_full(path: Path) -> None:
    model = Net()
    Quantize({"head": {"weight": "MXInt(width=4)"}})(model)  # and the embedding multiplies as it is
    Quantize({"conv": {"weight": "MXInt(width=4)"}})(model)
    model.eval().conv.enabled = False  # type: ignore[assignment]
    expected = model(X)
    save(model, path)
    assert describe(path)["weights"] == {}
    loaded = load(path, Net, packed=True)
    assert torch.equal(loaded(X), expected)
    assert isinstance(conv := loaded.get_submodule("conv"), QuantizedLayer)
    assert not conv.enabled


def test_scales_that_were_never_fitted_are_those_of_the_weight(path: Path) -> None:
    model = nn.Sequential(nn.Linear(24, 5)).eval()
    Quantize({"*": {"weight": "LearnedInteger(width=3)"}})(model)
    x = torch.randn(2, 24)
    expected = model(x)
    save(model, path)
    for way in ({}, {"packed": True}):
        assert torch.equal(load(path, nn.Sequential(nn.Linear(24, 5)), **way)(x), expected)


def test_a_layer_that_would_round_to_other_values_keeps_its_codes(path: Path) -> None:
    model = nn.Sequential(nn.Linear(24, 5)).eval()
    Quantize({"*": {"weight": "ResidualSign(levels=3, scale=per_tensor)"}})(model)
    x = torch.randn(2, 24)
    save(model, path)
    loaded = load(path, nn.Sequential(nn.Linear(24, 5)))
    assert coded(loaded) == ["0.weight"]
    assert torch.equal(loaded(x), model(x))


@every_way
def test_saving_what_was_loaded_saves_the_same(way: str, path: Path) -> None:
    model = fitted(net("LearnedInteger(width=5)"))
    save(model, path, accuracy=0.5)
    save(load(path, Net, **WAYS[way]), again := path.with_name("again"), accuracy=0.5)
    assert again.read_bytes() == path.read_bytes()


def test_packed_layers_of_mxint8_are_of_their_format(path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 8)).eval()
    Pack()(model)
    x = torch.randn(3, 64)
    expected = model(x)
    save(model, path)
    assert describe(path)["weights"]["0.weight"]["format"] == str(MXInt(width=8))
    for network in (nn.Sequential(nn.Linear(64, 8)), model):
        for way in ({"packed": True}, {}):
            loaded = load(path, network, **way)
            assert isinstance(loaded[0], QuantizedLinear)  # type: ignore[index]
            assert torch.equal(loaded(x), expected)


def test_the_memory_of_decoded_weights_is_limited(path: Path) -> None:
    model = net("MXInt(width=4)")
    save(model, path)
    size = model.embedding.weight.nbytes
    for limit, expected in ((0, []), (size - 1, []), (size, ["embedding.weight"])):
        loaded = load(path, Net, packed=True, keep_bytes=limit)
        loaded(X)
        parameters = dict(loaded.named_parameters())
        kept = [name for name in coded(loaded) if parameters[name].keeps]  # type: ignore[attr-defined]
        assert kept == expected


IDS = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(0))


def small_bert(attention: str = "eager") -> nn.Module:
    return bert(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=24,
        num_classes=3,
        attention=attention,
    )


@pytest.mark.parametrize("way", [{}, {"packed": True}])
def test_a_bert_is_made_from_its_file_alone(way: dict[str, Any], path: Path) -> None:
    model = small_bert().eval()
    Quantize({"*": "MXInt(width=6)"}, kinds=("Linear", "Embedding"))(model)
    save(model, path, labels=("a", "b", "c"), accuracy=0.75)
    before = torch.random.get_rng_state()
    loaded = load(path, **way)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(loaded) is type(model)
    assert loaded.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    facts = describe(path)
    assert facts["labels"] == ("a", "b", "c")
    assert facts["facts"] == {"accuracy": 0.75}
    assert facts["layers"]["classifier"]["weight"] == str(MXInt(width=6))


def test_other_networks_of_transformers_are_made_too(path: Path) -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = sequence_classifier(model_type="gpt2", config=sizes, vocab_size=40, pad_token_id=0)
    Quantize({"*": {"weight": "BlockFP(width=4)"}})(model.eval())
    save(model, path)
    assert torch.equal(load(path, packed=True)(IDS).logits, model(IDS).logits)


def test_a_classifier_comes_back_with_its_arguments_or_as_its_network(path: Path) -> None:
    recipe = Quantize({"*": "MXInt(width=6)"})
    model = TextClassifier(small_bert(), [recipe], num_classes=3, learning_rate=0.5).eval()
    expected = model.logits({"input_ids": IDS})
    save(model, path)
    loaded = load(path)
    assert isinstance(loaded, TextClassifier)
    assert loaded.hparams == model.hparams
    assert torch.equal(loaded.logits({"input_ids": IDS}), expected)
    assert torch.equal(load(path, small_bert)(IDS).logits, expected)


def test_adapters_come_back(path: Path) -> None:
    pytest.importorskip("peft")
    model = small_bert().eval()
    LoRA(rank=2, layers=("*query",))(model)
    Quantize({"*": {"weight": "MXInt(width=6)"}})(model)
    save(model, path)
    assert torch.equal(load(path)(IDS).logits, model(IDS).logits)


def test_another_network_is_refused(path: Path) -> None:
    model = small_bert().eval()
    save(model, path)
    with pytest.raises(InputValueError, match="build the network that was saved"):
        load(path, Net)
    save(Net(), path)
    with pytest.raises(InputValueError, match="give model="):
        load(path)


def test_a_tokenizer_is_named_with_a_hash_of_its_content(path: Path, tmp_path: Path) -> None:
    from lightning_adls.data.tokens import load_encoder

    tokenizer: Any = load_encoder(None)._tokenizer
    tokenizer.save_pretrained(folder := str(tmp_path / "tokenizer"))
    save(Net(), path, tokenizer=folder)
    expected = {"name": folder, "hash": load_encoder(folder).digest}
    assert describe(path)["tokenizer"] == expected
    with pytest.raises(MissingFileError, match="tokenizer"):
        save(Net(), path, tokenizer=str(tmp_path / "none"))
    assert describe(path)["tokenizer"] == expected


def test_other_programs_read_tensors_and_texts(path: Path) -> None:
    save(net("MXInt(width=8, block_size=8)"), path)
    with safe_open(path, "pt") as file:
        keys, texts = set(file.keys()), file.metadata()
        codes: Tensor = file.get_tensor("head.bias")
    assert {"conv.weight.codes", "conv.weight.shared", "embedding.weight.codes"} <= keys
    assert "head.weight.codes" not in keys
    assert '"MXInt(width=8, block_size=8)"' in texts["weights"]
    assert codes.dtype == torch.float32


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "accuracy": ({"accuracy": object()}, "accuracy=<object"),
    "infinity": ({"loss": float("inf")}, "loss=inf"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_facts_that_no_file_can_hold_are_refused(name: str, path: Path) -> None:
    facts, message = REFUSED[name]
    with pytest.raises(InputValueError, match=message):
        save(Net(), path, **facts)
    assert not path.exists()


def test_a_nan_in_a_rounded_weight_leaves_the_older_file(path: Path) -> None:
    save(net("MXInt(width=4)"), path)
    before = path.read_bytes()
    model = net("MXInt(width=4)")
    model.conv.weight.data[0, 0, 0] = float("nan")
    with pytest.raises(InputValueError, match="NaN"):
        save(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_older_file_and_ends_in_a_line(path: Path) -> None:
    save(net("MXInt(width=4)"), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(InputValueError, match=r"cannot be written: .*too large\.$"):
            save(nn.Linear(100, 100), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_limit_on_memory_needs_packed_weights(path: Path) -> None:
    save(Net(), path)
    for packed, limit in ((False, 10), (True, -1)):
        with pytest.raises(InputValueError, match="keep_bytes"):
            load(path, Net, packed=packed, keep_bytes=limit)


def test_a_recipe_without_weights_needs_no_codes(path: Path) -> None:
    model = nn.Sequential(nn.Linear(24, 5)).eval()
    model[0] = QuantizedLinear.from_layer(model[0], LayerFormats(input=MXInt(width=4)))
    x = torch.randn(2, 24)
    save(model, path)
    loaded = load(path, nn.Sequential(nn.Linear(24, 5)), packed=True)
    assert torch.equal(loaded(x), model(x))


def test_a_layer_that_is_switched_between_formats_is_refused(path: Path) -> None:
    model = net("LearnedInteger(width=4)")
    assert isinstance(model.conv, QuantizedLayer)
    model.conv.learn_by_format({"weight": (parse("LearnedInteger(width=2)"),)})
    with pytest.raises(InputValueError, match="'conv' is switched between formats"):
        save(model, path)
