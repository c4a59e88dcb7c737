"""A file holds what whole weights are encoded to, whatever is in memory while it is written."""

import math
from pathlib import Path

import pytest
import torch
from exported import Net, net
from torch import Tensor, nn

from lightning_adls.bench import peak_bytes
from lightning_adls.export import load, save
from lightning_adls.export.container import opened
from lightning_adls.formats import NumberFormat, parse
from lightning_adls.kernels import encode_cpu, encoding
from lightning_adls.kernels.bits import pack_bits
from lightning_adls.kernels.coded_shapes import shared_bits
from lightning_adls.kernels.compiled import PAYS_AFTER
from lightning_adls.kernels.encoding import has_zero
from lightning_adls.layers import QuantizedLayer
from lightning_adls.layers.stored_weight import is_stored
from lightning_adls.transforms import Prune, Quantize

VARIANTS = (
    "Binary(scale=per_tensor)",
    "Binary(scale=per_channel)",
    "Ternary(scale=per_tensor)",
    "Ternary(scale=per_channel)",
    "ResidualSign(levels=2, scale=per_channel)",
    "ResidualSign(levels=3, scale=per_tensor)",
    "ResidualSign(levels=3, scale=per_channel)",
    "ElasticBinary(signed=False)",
    "Integer(width=3, frac_width=5)",
    "Integer(width=12, frac_width=10)",
    "LearnedInteger(width=3, signed=False)",
    "BlockFP(width=5, exponent_width=3, block_size=(3, 4))",
    "MXInt(width=12)",
)
# A format that is added to the registry is here by itself.
every_format = pytest.mark.parametrize("text", [*NumberFormat.classes, *VARIANTS])


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def by_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """By C++, whose kernels are for large weights, and as where there is no compiler."""
    if request.param:
        encode_cpu.KERNELS.pay(PAYS_AFTER)
    monkeypatch.setattr(encode_cpu, "WORTH_IT", 1 if request.param else math.inf)
    return bool(request.param)


def whole(layer: QuantizedLayer) -> dict[str, Tensor]:
    """The parts of a weight, all of it encoded at once by the arithmetic of its format."""
    fmt, weight = layer.formats.weight, layer._parameters[layer.weight_name]
    assert fmt is not None
    assert weight is not None
    rows, scales = layer.to_rows(weight.detach()), layer.scales_of("weight")
    fitted = fmt.fit_scales(rows)
    encoded = fmt.encode(rows, scales if scales is None or fitted is None else fitted.to(scales))
    codes, parts = encoded.codes, {}
    if layer.weight_mask is not None:
        mask = layer.to_rows(layer.weight_mask)
        if has_zero(fmt) and codes.numel() * fmt.code_bits <= codes.numel() + int(
            mask.sum() * fmt.code_bits
        ):
            zero = fmt.encode(torch.tensor([[0.0, 1.0]])).codes[0, 0]
            codes = torch.where(mask, codes, zero)
        else:
            codes, parts["mask"] = codes[mask], pack_bits(mask, 1)
    parts["codes"] = pack_bits(codes, fmt.code_bits)
    if (shared := encoded.shared) is not None:
        parts["shared"] = (
            shared if shared.is_floating_point() else pack_bits(shared, shared_bits(fmt))
        )
    return parts


@every_format
@pytest.mark.parametrize(
    ("dtype", "sparsity"), [(torch.float32, 0.0), (torch.float32, 0.1), (torch.bfloat16, 0.8)]
)
@pytest.mark.usefixtures("by_kernels")
def test_a_part_of_the_rows_at_a_time_is_encoded_as_the_whole(
    text: str,
    dtype: torch.dtype,
    sparsity: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = net(text, sparsity).to(dtype)  # with rows of 72 and of 24, and a tied weight
    for name in ("AT_ONCE", "AT_ONCE_BY_KERNELS"):
        monkeypatch.setattr(encoding, name, 200)
    save(model, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as container:
        for name in ("embedding", "conv"):
            layer = model.get_submodule(name)
            assert isinstance(layer, QuantizedLayer)
            expected = whole(layer)
            written = {
                key.rpartition(".")[2]
                for key in container.entries
                if key.startswith(f"{name}.weight.")
            }
            assert written == expected.keys()
            for part, tensor in expected.items():
                assert torch.equal(container.read(f"{name}.weight.{part}"), tensor), part


def test_the_network_of_these_tests_shares_a_weight() -> None:
    assert isinstance(model := net("MXInt"), Net)
    assert model.head.weight is model.embedding.weight


SIZE = 768  # rows and columns of layers whose parts are small beside them
LAYER = 4 * SIZE**2


def large(text: str | None, dtype: torch.dtype, sparsity: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)).to(dtype).eval()
    if sparsity:
        Prune(sparsity)(model)
    if text is not None:
        Quantize({"*": {"weight": text}})(model)
    return model


@every_format
@pytest.mark.parametrize(
    ("dtype", "sparsity"), [(torch.float32, 0.0), (torch.float32, 0.8), (torch.bfloat16, 0.0)]
)
def test_saving_takes_less_memory_than_one_more_layer(
    text: str, dtype: torch.dtype, sparsity: float, tmp_path: Path
) -> None:
    model, path = large(text, dtype, sparsity), tmp_path / "a.safetensors"
    save(model, path)  # which makes what is kept for other weights
    peak = peak_bytes(lambda: save(model, path))
    assert 0 < peak < LAYER


@every_format
def test_without_a_compiler_it_takes_no_more(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_cpu, "WORTH_IT", math.inf)
    model, path = large(text, torch.float32, 0.0), tmp_path / "a.safetensors"
    assert 0 < peak_bytes(lambda: save(model, path)) < LAYER


def test_a_weight_that_is_not_rounded_is_saved_in_less_memory_than_one_more_layer(
    tmp_path: Path,
) -> None:
    model = large(None, torch.float32, 0.5)
    Quantize({"*": {"input": "MXInt"}})(model)
    assert 0 < peak_bytes(lambda: save(model, tmp_path / "a.safetensors")) < LAYER


@every_format
def test_a_packed_weight_is_loaded_and_saved_in_less_memory_than_one_more_layer(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save(large(text, torch.float32, 0.0), path)
    fresh = large(None, torch.float32, 0.0)
    assert peak_bytes(lambda: load(path, fresh, packed=True)) < LAYER
    assert peak_bytes(lambda: save(fresh, path)) < LAYER
    layer = fresh.get_submodule("0")
    assert isinstance(layer, QuantizedLayer)
    assert is_stored(layer)
    assert layer.formats.weight == parse(text)
