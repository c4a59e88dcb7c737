"""The rounded weight that a layer keeps is that of what it has now, whatever was changed."""

import gc
import io
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import replace

import pytest
import torch
from samples import BACKENDS, PAIRS, call
from torch import Tensor, nn
from torch.func import functional_call

from lightning_adls.formats import Binary, Integer, LearnedInteger, ResidualSign
from lightning_adls.layers import KINDS, LayerFormats, QuantizedLayer, builder, weight_of
from lightning_adls.optimizers import adamw

FOUR_BITS = LayerFormats(weight=Integer(width=4, frac_width=3))
ALL_FOUR_BITS = LayerFormats(*[Integer(width=4, frac_width=3)] * 3)
Sample = tuple[QuantizedLayer, Tensor]


@pytest.fixture(params=BACKENDS, ids="-".join)
def sample(request: pytest.FixtureRequest) -> Sample:
    """A layer that rounds, in eval mode, with an input."""
    backend, kind = request.param
    plain, x = PAIRS[kind]()
    return builder(backend)(plain, ALL_FOUR_BITS).eval(), x


def learning(backend: str, kind: str) -> Sample:
    """The same with scales of the weight that are learned."""
    plain, x = PAIRS[kind]()
    formats = LayerFormats(weight=LearnedInteger(width=4))
    if backend == "mase":
        formats = LayerFormats(ResidualSign(), Binary())
    layer = builder(backend)(plain, formats)
    call(layer, x)  # fits them
    return layer.eval(), x


def test_all_kinds_are_tried() -> None:
    assert list(PAIRS) == list(KINDS)


def called_with(layer: QuantizedLayer, weight: Tensor, x: Tensor) -> Tensor:
    arguments = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    called = functional_call(layer, {layer.weight_name: weight}, arguments)
    output: Tensor = called[0] if isinstance(called, tuple) else called
    return output


def new(layer: QuantizedLayer) -> nn.Parameter:
    return nn.Parameter(torch.randn_like(weight_of(layer)))


def write(layer: QuantizedLayer) -> None:
    weight_of(layer).mul_(-0.5)


def step(layer: QuantizedLayer) -> None:
    optimizer = torch.optim.SGD([weight_of(layer)], lr=0.7)
    weight_of(layer).grad = torch.randn_like(weight_of(layer))
    optimizer.step()


def load(layer: QuantizedLayer) -> None:
    layer.load_state_dict({**layer.state_dict(), layer.weight_name: new(layer)})


def load_by_assigning(layer: QuantizedLayer) -> None:
    layer.load_state_dict({**layer.state_dict(), layer.weight_name: new(layer)}, assign=True)


def replace_parameter(layer: QuantizedLayer) -> None:
    setattr(layer, layer.weight_name, new(layer))


def assign_data(layer: QuantizedLayer) -> None:
    weight_of(layer).data = torch.randn_like(weight_of(layer))


def write_through_data(layer: QuantizedLayer) -> None:
    weight_of(layer).data.mul_(-0.5)  # torch counts no version


def write_through_numpy(layer: QuantizedLayer) -> None:
    weight_of(layer).detach().numpy()[...] *= -0.5  # nor here


def step_unseen(layer: QuantizedLayer) -> None:
    optimizer = torch.optim.AdamW([weight_of(layer)], lr=0.7, fused=True)  # nor here
    weight_of(layer).grad = torch.randn_like(weight_of(layer))
    optimizer.step()


def step_seen(layer: QuantizedLayer) -> None:
    optimizer = adamw([weight_of(layer)], lr=0.7)
    weight_of(layer).grad = torch.randn_like(weight_of(layer))
    optimizer.step()


def set_mask(layer: QuantizedLayer) -> None:
    layer.weight_mask = torch.rand_like(weight_of(layer)) > 0.5


def write_mask(layer: QuantizedLayer) -> None:
    assert layer.weight_mask is not None
    layer.weight_mask.fill_(False)


def remove_mask(layer: QuantizedLayer) -> None:
    layer.weight_mask = None


def switch_off(layer: QuantizedLayer) -> None:
    layer.enabled = False


def assign_formats(layer: QuantizedLayer) -> None:
    layer.formats = replace(layer.formats, weight=Integer(width=2, frac_width=1))


def forget_formats(layer: QuantizedLayer) -> None:
    layer.formats = LayerFormats()


CHANGES = (
    *(write, step, step_seen, load, load_by_assigning, replace_parameter, assign_data),
    *(set_mask, write_mask, remove_mask, switch_off, assign_formats, forget_formats),
)
UNSEEN = (write_through_data, write_through_numpy, step_unseen)


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_of_what_decides_the_weight_is_seen(
    sample: Sample, change: Callable[[QuantizedLayer], None], inference: bool
) -> None:
    layer, x = sample
    if change in (write_mask, remove_mask):
        layer.weight_mask = torch.ones_like(weight_of(layer), dtype=torch.bool)
        layer.weight_mask[-1] = False
    mode = torch.inference_mode if inference else torch.no_grad
    with mode():
        before = call(layer, x)
    with torch.no_grad():
        change(layer)
    with mode():
        assert torch.equal(call(layer, x), call(deepcopy(layer), x))
        assert not torch.equal(call(layer, x), before), "a change that shows"


@pytest.mark.parametrize(("backend", "kind"), BACKENDS)
@pytest.mark.parametrize("change", ["write", "replace", "load"])
def test_changed_scales_are_seen(backend: str, kind: str, change: str) -> None:
    layer, x = learning(backend, kind)
    scales = layer.weight_scales
    assert scales is not None
    with torch.no_grad():
        before = call(layer, x)
        if change == "write":
            scales.mul_(3.0)
        elif change == "replace":
            layer.weight_scales = nn.Parameter(scales * 3.0)
        else:
            layer.load_state_dict({**layer.state_dict(), "weight_scales": scales * 3.0})
        assert torch.equal(call(layer, x), call(deepcopy(layer), x))
        assert not torch.equal(call(layer, x), before)


def test_each_of_many_short_lived_weights_is_rounded(sample: Sample) -> None:
    layer, x = sample
    with torch.no_grad():
        for _ in range(30):
            weight = torch.randn_like(weight_of(layer))
            output = called_with(layer, weight, x)
            alone = deepcopy(layer)
            setattr(alone, layer.weight_name, nn.Parameter(weight.clone()))
            assert torch.equal(output, call(alone, x))
            del weight  # its address is free again


@pytest.mark.parametrize("replaced", ["weight", "weight.data", "weight_mask"])
def test_each_of_many_assigned_tensors_is_seen(sample: Sample, replaced: str) -> None:
    layer, x = sample
    with torch.no_grad():
        for _ in range(30):
            if replaced == "weight":
                setattr(layer, layer.weight_name, new(layer))
            elif replaced == "weight.data":
                for _ in range(2):  # the second may lie where the first lay
                    weight_of(layer).data = torch.randn_like(weight_of(layer))
            else:
                layer.weight_mask = torch.rand_like(weight_of(layer)) > 0.5
            assert torch.equal(call(layer, x), call(deepcopy(layer), x))


def test_steps_of_fused_optimisers_which_count_no_version_are_seen(sample: Sample) -> None:
    layer, x = sample  # in eval mode all along, as models of `from_pretrained` are
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        with torch.no_grad():
            before = call(layer, x)
        call(layer, x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert torch.equal(call(layer, x), call(deepcopy(layer), x))
            assert not torch.equal(call(layer, x), before)


def test_another_dtype_is_seen_and_nothing_old_is_kept(sample: Sample) -> None:
    layer, x = sample
    with torch.no_grad():
        call(layer, x)
        for dtype in (torch.float64, torch.bfloat16, torch.float32):
            layer.to(dtype)
            assert layer.rounded_weight().dtype == dtype
            assert torch.equal(layer.rounded_weight(), deepcopy(layer).rounded_weight())


def test_moving_to_another_device_leaves_nothing_behind(sample: Sample) -> None:
    layer, x = sample
    with torch.no_grad():
        call(layer, x)
        layer.to("meta")  # the one device besides the CPU that is always there
        assert layer._kept is None
        assert layer.rounded_weight().is_meta


def test_a_kept_weight_keeps_no_other_tensor_alive(sample: Sample) -> None:
    layer, x = sample
    with torch.no_grad():
        call(layer, x)
        old = torch.utils.weak.TensorWeakRef(weight_of(layer))
        setattr(layer, layer.weight_name, new(layer))
    gc.collect()
    assert old() is None


def test_copies_and_pickles_compute_the_same_and_take_no_kept_weight_along(
    sample: Sample,
) -> None:
    layer, x = sample
    with torch.no_grad():
        expected = call(layer, x)
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        others = [
            *(deepcopy(layer), copy(layer), pickle.loads(pickle.dumps(layer))),
            torch.load(file, weights_only=False),
        ]
        for other in others:
            assert other._kept is None
            assert torch.equal(call(other, x), expected)
        weight_of(others[0]).zero_()
        assert torch.equal(call(layer, x), expected)


def test_a_weight_kept_in_one_mode_serves_no_other(sample: Sample) -> None:
    layer, x = sample
    layer.requires_grad_(False)
    with torch.inference_mode():
        call(layer, x)
    with torch.no_grad():
        assert not layer.rounded_weight().is_inference()
    layer.requires_grad_(True)
    assert layer.rounded_weight().requires_grad
    call(layer, x).sum().backward()
    assert weight_of(layer).grad is not None


def test_it_is_kept_at_all(sample: Sample) -> None:
    layer, _ = sample
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            first = layer.rounded_weight()
            assert layer.rounded_weight() is first
            assert layer.train().eval().rounded_weight() is not first


def test_a_weight_without_parameters_of_its_own_is_not_kept() -> None:
    plain, x = PAIRS["Linear"]()
    layer = builder("standard")(plain, FOUR_BITS).eval()
    with torch.inference_mode():  # inference tensors count no versions
        for _ in range(3):
            weight = torch.randn_like(weight_of(layer))
            expected = functional_call(layer, {"weight": weight}, (x,))
            assert torch.equal(expected, functional_call(layer, {"weight": weight}, (x,)))
            weight.neg_()
            assert not torch.equal(expected, functional_call(layer, {"weight": weight}, (x,)))


def frozen(layer: QuantizedLayer) -> QuantizedLayer:
    return layer.train().requires_grad_(False)


def test_a_frozen_weight_is_kept_in_training(sample: Sample) -> None:
    layer = frozen(sample[0])
    first = layer.rounded_weight()
    assert layer.rounded_weight() is first
    assert layer.train().rounded_weight() is not first


@pytest.mark.parametrize("change", [*CHANGES, *UNSEEN], ids=lambda change: change.__name__)
def test_every_change_of_a_frozen_weight_is_seen_in_training(
    sample: Sample, change: Callable[[QuantizedLayer], None]
) -> None:
    layer = frozen(sample[0])
    layer.weight_mask = torch.ones_like(weight_of(layer), dtype=torch.bool)
    layer.weight_mask[-1] = False
    before = layer.rounded_weight()
    with torch.no_grad():
        change(layer)
    assert torch.equal(layer.rounded_weight(), deepcopy(layer).rounded_weight())
    assert not torch.equal(layer.rounded_weight(), before), "a change that shows"


def test_another_dtype_or_device_of_a_frozen_weight_is_seen(sample: Sample) -> None:
    layer = frozen(sample[0])
    layer.rounded_weight()
    assert layer.double().rounded_weight().dtype == torch.float64
    assert torch.equal(layer.rounded_weight(), deepcopy(layer).rounded_weight())
    assert layer.to("meta").rounded_weight().is_meta
    assert layer._kept is None, "to compare it would wait for other devices than the CPU"


def test_a_weight_that_thaws_is_rounded_at_each_step_again(sample: Sample) -> None:
    layer, x = sample
    kept = frozen(layer).rounded_weight()
    layer.requires_grad_(True)
    call(layer, x).square().sum().backward()
    assert weight_of(layer).grad is not None
    with torch.no_grad():  # as the first pass of activation checkpointing
        assert layer.rounded_weight() is not kept
        assert layer.rounded_weight() is not layer.rounded_weight()


def test_what_is_rounded_at_random_is_drawn_anew_though_frozen() -> None:
    plain, _ = PAIRS["Linear"]()
    layer = frozen(builder("standard")(plain, LayerFormats(weight=Binary(stochastic=True))))
    assert not torch.equal(layer.rounded_weight(), layer.rounded_weight())


def test_frozen_layers_train_the_others_as_if_they_were_rounded_anew() -> None:
    def gradients(keeps: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layers = [nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)]
        model = nn.Sequential(*(builder("standard")(layer, ALL_FOUR_BITS) for layer in layers))
        model[1].requires_grad_(False)
        x, found = torch.randn(4, 8), []
        for _ in range(3):
            model(x).square().sum().backward()
            if not keeps:
                model[1].train()
        for parameter in (*model[0].parameters(), *model[2].parameters()):
            assert parameter.grad is not None
            found.append(parameter.grad)
        return found

    assert all(map(torch.equal, gradients(keeps=True), gradients(keeps=False)))
