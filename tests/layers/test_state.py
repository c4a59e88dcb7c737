"""What changes an output is in the state dict, for all kinds of layers, formats and backends."""

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
import torch
from samples import BACKENDS, PAIRS, call
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import Binary, LearnedInteger, MXInt, NumberFormat
from lightning_adls.layers import LayerFormats, LayerRecord, QuantizedLayer, builder, weight_of
from lightning_adls.layers.packed import PackedLinear

pytestmark = pytest.mark.conformance

FORMATS = [cls() for cls in NumberFormat.classes.values()]


def layer_formats(backend: str, fmt: NumberFormat) -> LayerFormats | None:
    """A layer's formats with ``fmt`` for as many of its tensors as the backend can; None if not."""
    for choice in (
        LayerFormats(fmt, fmt, fmt),
        LayerFormats(fmt, Binary()),
        LayerFormats(None, fmt),
    ):
        try:
            builder(backend)(nn.Linear(2, 2), choice)
        except InputValueError:
            continue
        return choice
    return None


CASES = {
    f"{backend}-{kind}-{fmt}": (backend, kind, formats)
    for (backend, kind), fmt in product(BACKENDS, FORMATS)
    if (formats := layer_formats(backend, fmt)) is not None
}
every_case = pytest.mark.parametrize(("backend", "kind", "formats"), CASES.values(), ids=CASES)


def untouched(layer: QuantizedLayer, x: Tensor) -> None:
    """As it was made."""


def trained(layer: QuantizedLayer, x: Tensor) -> None:
    call(layer.train(), x)  # fits scales that are learned
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.25)


def masked(layer: QuantizedLayer, x: Tensor) -> None:
    layer.weight_mask = torch.rand_like(weight_of(layer)) > 0.5


def sparse(layer: QuantizedLayer, x: Tensor) -> None:
    layer.input_sparsity = 0.3


def switched_off(layer: QuantizedLayer, x: Tensor) -> None:
    layer.enabled = False


def all_of_it(layer: QuantizedLayer, x: Tensor) -> None:
    for change in (trained, masked, sparse, switched_off):
        change(layer, x)


CHANGES = (untouched, trained, masked, sparse, switched_off, all_of_it)


def saved(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, from a file."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    state: dict[str, Tensor] = torch.load(file, weights_only=True)
    return state


def test_formats_of_all_backends_are_tried() -> None:
    of_mase = [case for case in CASES if case.startswith("mase")]
    assert len(CASES) - len(of_mase) == len(FORMATS) * len(PAIRS)
    assert len(of_mase) > 10


@every_case
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_fresh_layer_with_the_state_computes_the_same(
    backend: str,
    kind: str,
    formats: LayerFormats,
    change: Callable[[QuantizedLayer, Tensor], None],
) -> None:
    plain, x = PAIRS[kind]()
    layer = builder(backend)(plain, formats)
    change(layer, x)
    layer.eval()
    for state in (layer.state_dict(), saved(layer)):
        fresh = builder(backend)(PAIRS[kind]()[0], formats).eval()
        fresh.load_state_dict(state)
        with torch.no_grad():
            assert torch.equal(call(fresh, x), call(layer, x))
    for copied in (deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            assert torch.equal(call(copied, x), call(layer, x))
        assert list(copied.state_dict()) == list(layer.state_dict())


@every_case
def test_a_switch_that_was_set_back_is_not_left_to_the_recipe(
    backend: str, kind: str, formats: LayerFormats
) -> None:
    plain, x = PAIRS[kind]()
    layer, fresh = builder(backend)(plain, formats), builder(backend)(PAIRS[kind]()[0], formats)
    for either in (layer.eval(), fresh.eval()):
        either.input_sparsity = 0.4  # as a recipe says
    layer.input_sparsity = 0.0
    fresh.load_state_dict(saved(layer))
    with torch.no_grad():
        assert torch.equal(call(fresh, x), call(layer, x))


@pytest.mark.parametrize(("backend", "kind"), BACKENDS)
def test_what_is_as_by_default_adds_the_recipe_alone_to_the_state(backend: str, kind: str) -> None:
    plain, _ = PAIRS[kind]()
    layer = builder(backend)(plain, LayerFormats(weight=MXInt()))
    assert set(layer.state_dict()) == {*plain.state_dict(), "_extra_state"}
    layer.enabled = False
    layer.enabled = True
    assert set(layer.state_dict()) == {*plain.state_dict(), "_extra_state"}
    unrounded = builder("standard")(plain, LayerFormats())
    assert list(unrounded.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(("backend", "kind"), BACKENDS)
def test_the_state_of_a_plain_layer_leaves_the_switches_as_they_are(
    backend: str, kind: str
) -> None:
    layer = builder(backend)(PAIRS[kind]()[0], LayerFormats(weight=MXInt()))
    layer.enabled, layer.input_sparsity = False, 0.25
    layer.load_state_dict(PAIRS[kind]()[0].state_dict())
    assert (layer.enabled, layer.input_sparsity) == (False, 0.25)


@pytest.mark.parametrize(("backend", "kind"), BACKENDS)
def test_an_earlier_state_of_a_layer_that_rounded_has_it_round_again(
    backend: str, kind: str
) -> None:
    plain, x = PAIRS[kind]()
    layer = builder(backend)(plain, LayerFormats(weight=MXInt(width=3))).eval()
    start, expected = saved(layer), call(layer, x)
    layer.enabled = False
    layer.load_state_dict(start)
    assert layer.enabled
    assert torch.equal(call(layer, x), expected)


def test_values_of_switches_come_back_exactly_and_as_python_values() -> None:
    layer = builder("standard")(nn.Linear(4, 4), LayerFormats())
    for share in (0.1, 1 / 3, 0.0, 0.999999):
        layer.input_sparsity = share
        fresh = builder("standard")(nn.Linear(4, 4), LayerFormats())
        fresh.load_state_dict(saved(layer))
        assert fresh.input_sparsity == share
        assert type(fresh.input_sparsity) is float
    layer.enabled = False
    fresh.load_state_dict(saved(layer))
    assert fresh.enabled is False


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused_when_it_is_set(share: float) -> None:
    layer = builder("standard")(nn.Linear(4, 4), LayerFormats())
    with pytest.raises(ValueError, match=f"QuantizedLinear: input_sparsity={share} is not in 0"):
        layer.input_sparsity = share
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("change", [untouched, sparse, switched_off, all_of_it])
@pytest.mark.parametrize("fmt", [None, *FORMATS], ids=str)
def test_a_packed_layer_has_what_was_set_before_packing_in_its_state(
    fmt: NumberFormat | None, change: Callable[[QuantizedLayer, Tensor], None]
) -> None:
    plain, x = PAIRS["Linear"]()
    formats = LayerFormats(fmt, MXInt(width=8), fmt)
    layer = builder("standard")(plain, formats)
    change(layer, x)
    packed = PackedLinear.from_linear(layer.eval())
    assert packed.input_sparsity == layer.input_sparsity
    assert packed.enabled == layer.enabled
    fresh = PackedLinear(16, 5, formats=formats).eval()
    fresh.load_state_dict(saved(packed))
    assert torch.equal(call(fresh, x), packed(x))


LEARNING = {case: values for case, values in CASES.items() if "LearnedInteger" in case}
learning = pytest.mark.parametrize(("backend", "kind", "formats"), LEARNING.values(), ids=LEARNING)


def made(backend: str, kind: str, formats: LayerFormats) -> tuple[QuantizedLayer, Tensor]:
    torch.manual_seed(0)
    plain, x = PAIRS[kind]()
    return builder(backend)(plain, formats), x


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@learning
@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers"])
@pytest.mark.parametrize(
    "options",
    [{}, {"avg_fn": get_ema_avg_fn(0.5)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.5)}],
    ids=["equal", "exponential", "exponential-multi"],
)
def test_an_average_that_was_begun_before_the_first_batch_has_its_scales(
    backend: str, kind: str, formats: LayerFormats, buffers: bool, options: dict[str, Any]
) -> None:
    layer, x = made(backend, kind, formats)
    average = AveragedModel(layer, use_buffers=buffers, **options)
    call(layer, x)
    for _ in range(3):
        average.update_parameters(layer)
    assert equal(average.module.state_dict(), layer.state_dict())
    again = deepcopy(average)
    with torch.no_grad():
        expected = call(deepcopy(layer).eval(), x)
        assert torch.equal(call(average.eval().module, x), expected)
        call(again.train().module, x)  # fits nothing that is fitted already
    assert equal(again.module.state_dict(), layer.state_dict())


@learning
def test_a_return_to_the_start_fits_the_scales_again(
    backend: str, kind: str, formats: LayerFormats
) -> None:
    layer, x = made(backend, kind, formats)
    start = deepcopy(layer.state_dict())
    other = 50 * x if x.is_floating_point() else x.flip(0)
    call(layer, other)
    with torch.no_grad():
        weight_of(layer).mul_(3)
    layer.load_state_dict(start)
    call(layer, x)
    expected, _ = made(backend, kind, formats)
    call(expected, x)
    assert equal(layer.state_dict(), expected.state_dict())


@learning
def test_scales_of_an_older_state_dict_count_as_fitted_and_missing_ones_stay(
    backend: str, kind: str, formats: LayerFormats
) -> None:
    layer, x = made(backend, kind, formats)
    call(layer, x)
    state = layer.state_dict()
    older = {key: value for key, value in state.items() if not key.endswith("_fitted")}
    fresh, _ = made(backend, kind, formats)
    fresh.load_state_dict(older)
    assert equal(fresh.state_dict(), state)
    unfitted = {key: value for key, value in older.items() if not key.endswith("_scales")}
    layer.load_state_dict(unfitted)
    assert equal(layer.state_dict(), state)


def test_evaluating_before_anything_was_fitted_is_said_and_afterwards_not(
    recwarn: pytest.WarningsRecorder,
) -> None:
    layer, x = made("standard", "Linear", LayerFormats(LearnedInteger(width=3)))
    with pytest.warns(UserWarning, match="QuantizedLinear: learned scales are not fitted yet"):
        layer.eval()(x)
    layer.train()(x)
    recwarn.clear()
    layer.eval()(x)
    assert not recwarn.list


@every_case
def test_a_layer_of_another_recipe_refuses_the_state_in_one_sentence_with_both(
    backend: str, kind: str, formats: LayerFormats
) -> None:
    first = builder(backend)(PAIRS[kind]()[0], formats)
    state = nn.ModuleDict({"net": first}).state_dict()
    record = LayerRecord.from_tensor(state["net._extra_state"])
    assert (record.kind, record.backend) == (kind, first.backend)
    other = builder("standard")(PAIRS[kind]()[0], LayerFormats(weight=MXInt(width=3)))
    for layer in (other, builder("standard")(PAIRS[kind]()[0], LayerFormats())):
        theirs = LayerRecord.of(kind, "standard", layer.formats)
        with pytest.raises(InputValueError) as refused:
            nn.ModuleDict({"net": layer}).load_state_dict(state)
        sentence = str(refused.value)
        assert f"the recipe of net is {record} in the state dict and {theirs} in" in sentence
        assert "\n" not in sentence


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_record_is_read_back_also_from_another_dtype(
    fmt: NumberFormat, dtype: torch.dtype
) -> None:
    record = LayerRecord.of("Conv2d", "standard", LayerFormats(fmt, None, fmt))
    assert LayerRecord.from_tensor(record.to_tensor().to(dtype)) == record
    assert record.formats == LayerFormats(fmt, None, fmt)


@pytest.mark.parametrize("value", [torch.zeros(3), "MXInt(width=4)", torch.tensor([123, 125])])
def test_what_is_no_record_is_refused(value: Any) -> None:
    with pytest.raises(InputValueError, match="is not the recipe of a quantised layer"):
        LayerRecord.from_tensor(value)
