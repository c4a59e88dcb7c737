"""ONNX graphs of quantised layers compute, in ONNX Runtime, what eager torch computes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adls.formats import NumberFormat
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.pack import Pack

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")


def run(model: nn.Module, example: Tensor, *inputs: Tensor, **options: Any) -> list[list[Tensor]]:
    """Export ``model`` by ``example``; for each of ``inputs`` what the graph gives."""
    with torch.no_grad():
        program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, **options)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    outputs = (session.run(None, {name: x.numpy()}) for x in inputs)
    return [[torch.from_numpy(each.copy()) for each in output] for output in outputs]


# All formats, and parameters that take other branches.
FORMATS = [
    NumberFormat.parse(text)
    for text in (
        *NumberFormat.classes,
        "Binary(scale='per_channel')",
        "Ternary(scale='per_tensor')",
        "ResidualSign(levels=3, scale='per_tensor')",
        "MXInt(width=4, block_size=(3, 7))",
        "MinifloatIEEE(width=32, exponent_width=8)",
        "Log(width=16)",
    )
]


class Rounding(nn.Module):
    """Every format of the input: one graph for all, since each export takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        scales = [fmt.initial_scales() for fmt in FORMATS]
        self.scales = [None if each is None else nn.Buffer(each) for each in scales]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(FORMATS, self.scales, strict=True)
        return tuple(fmt(x, scales) for fmt, scales in pairs)


def takes_means(fmt: NumberFormat) -> bool:
    """Whether its elements share a scale of any value."""
    _, shared = fmt.to_codes(torch.ones(1, 1))
    return shared is not None and shared.is_floating_point()


def hard_inputs(dtype: torch.dtype) -> list[Tensor]:
    """Of all magnitudes; on and next to powers of two and their geometric means; not finite."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(4, 40, generator=generator, dtype=dtype)
    wide = torch.exp2(torch.rand(4, 40, generator=generator, dtype=dtype) * 270 - 150) * plain
    powers = torch.exp2(torch.arange(160, dtype=dtype) - 80).view(4, 40)
    special = plain.clone()
    special.view(-1)[:5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0], dtype=dtype)
    below = torch.nextafter(powers, torch.zeros((), dtype=dtype))
    return [plain, wide, powers, below, -powers * 2**0.5, special]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_the_same_to_the_bit(dtype: torch.dtype) -> None:
    model, inputs = Rounding().eval(), hard_inputs(dtype)
    # The optimiser of onnxscript 0.7 loses a node of so many float64 formats of one tensor.
    found_all = run(model, inputs[0], *inputs, optimize=dtype == torch.float32)
    for found, x in zip(found_all, inputs, strict=True):
        for fmt, ours, expected in zip(FORMATS, found, model(x), strict=True):
            # A mean of float64 is a sum in an order that depends on the processor.
            rtol = 1e-14 if dtype == torch.float64 and takes_means(fmt) else 0.0
            torch.testing.assert_close(
                ours, expected, rtol=rtol, atol=0, equal_nan=True, msg=str(fmt)
            )


class Layers(nn.Module):
    """Each layer by itself: of a sum that is a bit off, rounding may make more than that."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Linear(40, 6),
                nn.Linear(40, 6),
                nn.Linear(40, 6),
                nn.Conv1d(10, 6, 3),
                nn.Conv2d(10, 6, (1, 3)),
                nn.Embedding(10, 40),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        rows = (x, x, x, x.unflatten(1, (10, 4)), x.unflatten(1, (10, 2, 2)), (x > 0).long())
        padded = [*rows[:4], nn.functional.pad(rows[4], (1, 1)), rows[5]]
        return [layer(each) for layer, each in zip(self.layers, padded, strict=True)]


@pytest.mark.long
def test_layers_give_the_outputs_of_eager_ones() -> None:
    torch.manual_seed(0)
    model, x = Layers(), torch.randn(3, 40)
    Prune(0.5, layers=["layers.1", "layers.3"], activation_sparsity=0.25)(model)
    recipe = {"*": "MXInt(width=4)", "*.1": "LearnedInteger(width=4)", "*.3": "Log"}
    kinds = ("Linear", "Conv1d", "Conv2d", "Embedding")
    Quantize({**recipe, "*.2": {"weight": "MXInt(width=8)"}}, kinds=kinds)(model)
    Pack(["layers.2"])(model)
    model(x)  # fits learned scales
    model.eval()
    (found,) = run(model, x, x)
    torch.testing.assert_close(found, model(x))


@pytest.mark.long
def test_the_batch_may_have_any_size() -> None:
    model = nn.Sequential(nn.Linear(40, 6)).eval()
    Quantize({"*": "MXFP"})(model)
    shapes = ({0: torch.export.Dim("batch")},)
    inputs = [torch.randn(rows, 40) for rows in (3, 7)]
    found = run(model, inputs[0], *inputs, dynamic_shapes=shapes)
    for (ours,), x in zip(found, inputs, strict=True):
        torch.testing.assert_close(ours, model(x))
