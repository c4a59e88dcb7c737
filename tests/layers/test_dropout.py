"""Dropout from packed random bits. All seeds are fixed, and bounds are six standard deviations."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_adls.layers.dropout import BitDropout, use_bit_dropout

# Counts leave what they should be within once in many thousand draws: always the same ones.
fixed = settings(derandomize=True, max_examples=25)
PROBABILITIES = st.one_of(st.sampled_from([0.1, 0.5, 0.9]), st.floats(0.001, 0.999))
SEEDS = st.integers(0, 2**32 - 1)


def masks(p: float, seed: int, *shape: int) -> Tensor:
    """What is kept of ones, as 0 and 1."""
    torch.manual_seed(seed)
    kept: Tensor = BitDropout(p)(torch.ones(shape)) != 0
    return kept.double()


def deviation(counted: Tensor, p: float, trials: int) -> float:
    """How many standard deviations a count of kept elements is from what it should be, at most."""
    kept = 1 - round(p * 2**15) / 2**15
    return float(((counted - kept * trials) / (trials * kept * (1 - kept)) ** 0.5).abs().max())


@fixed
@given(PROBABILITIES, SEEDS, st.lists(st.integers(1, 9), max_size=3))
def test_what_is_kept_is_divided_by_the_probability_of_being_kept(
    p: float, seed: int, shape: list[int]
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64)
    y = BitDropout(p)(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    rounded = round(p * 2**15) / 2**15
    assert abs(rounded - p) <= 2**-16
    torch.testing.assert_close(y, torch.where(y == 0, 0, x / (1 - rounded)), rtol=1e-15, atol=0)


@fixed
@given(PROBABILITIES, SEEDS)
def test_elements_are_dropped_with_the_same_probability_at_every_place(p: float, seed: int) -> None:
    kept = masks(p, seed, 2**10, 8)  # a draw decides over four elements
    assert deviation(kept.sum(0), p, 2**10) < 6
    assert deviation(kept.sum(), p, 2**13) < 6


@fixed
@given(st.floats(0.05, 0.95), SEEDS)
def test_elements_and_steps_are_independent(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    layer = BitDropout(p)
    first, second = (layer(torch.ones(2**12)).double() - 1 for _ in range(2))
    variance = round(p * 2**15) / (2**15 - round(p * 2**15))
    pairs = [(first[lag:], first[:-lag]) for lag in range(1, 9)] + [(first, second)]
    for one, other in pairs:
        correlation = (one * other).mean() / variance
        assert abs(correlation) < 6 / len(one) ** 0.5


@fixed
@given(st.floats(0.05, 0.95), SEEDS)
def test_mean_and_variance_are_those_of_torchs_dropout(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    n = 2**13
    y = BitDropout(p)(torch.ones(n, dtype=torch.float64))
    variance = p / (1 - p)
    assert abs(y.mean() - 1) < 6 * (variance / n) ** 0.5
    # The variance of a squared deviation, which is 1 or p^2 / (1 - p)^2.
    fourth = p + p**4 / (1 - p) ** 3
    assert abs((y - 1).square().mean() - variance) < 6 * ((fourth - variance**2) / n) ** 0.5 + 1e-3


@fixed
@given(PROBABILITIES, SEEDS)
def test_the_gradient_is_the_mask_times_the_scale(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    x, upstream = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    y = BitDropout(p)(x)
    y.backward(upstream)
    rounded = round(p * 2**15) / 2**15
    expected = torch.where(y == 0, 0, upstream / (1 - rounded))
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("layer", [BitDropout(0.5).eval(), BitDropout(0.0)], ids=["eval", "p=0"])
def test_in_evaluation_and_for_p_of_0_it_is_the_identity(layer: nn.Module) -> None:
    x = torch.randn(100)
    assert torch.equal(layer(x), x)


def test_where_p_rounds_to_0_it_is_torchs_dropout() -> None:
    x, found = torch.randn(2**16), []
    for layer in (BitDropout(1e-5), nn.Dropout(1e-5)):
        torch.manual_seed(0)
        found.append(layer(x))
    assert torch.equal(*found)


def test_p_of_1_drops_all() -> None:
    assert not BitDropout(1.0)(torch.randn(100)).any()


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        BitDropout(p)


def test_a_seed_and_a_restored_state_repeat_it_and_each_step_differs() -> None:
    layer, x = BitDropout(0.3), torch.ones(50)
    torch.manual_seed(1)
    first = layer(x)
    state = torch.get_rng_state()
    second = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), second)


def test_the_number_of_threads_changes_nothing() -> None:
    threads, found = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        torch.manual_seed(0)
        found.append(BitDropout(0.3)(torch.ones(300, 300)))
    torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_an_input_is_not_changed_and_one_in_place_is() -> None:
    x = torch.ones(100)
    BitDropout(0.5)(x)
    assert x.all()
    BitDropout(0.5, inplace=True)(x)
    assert set(x.tolist()) == {0.0, 2.0}


def test_transposed_and_empty_inputs() -> None:
    x = torch.rand(6, 4).t() + 1
    y = BitDropout(0.5)(x)
    torch.testing.assert_close(y, torch.where(y == 0, 0, 2 * x))
    assert BitDropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(dtype: torch.dtype) -> None:
    y = BitDropout(0.5)(torch.ones(100, dtype=dtype))
    assert y.dtype == dtype
    assert set(y.tolist()) == {0.0, 2.0}


def test_it_works_under_autocast() -> None:
    model = nn.Sequential(nn.Linear(8, 8), BitDropout(0.5))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(4, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()


def test_checkpointed_activations_drop_the_same_elements_again() -> None:
    layer, x = BitDropout(0.5), torch.ones(100, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_it_is_one_graph_that_drops_the_same_elements(dynamic: bool) -> None:
    layer = BitDropout(0.3)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    found = []
    for call in (layer, compiled):
        torch.manual_seed(0)
        x = torch.ones(7, 9, requires_grad=True)
        y = call(x)
        y.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, y)
        found.append(y)
    assert torch.equal(*found)


def test_exported_it_is_torchs_dropout() -> None:
    model = nn.Sequential(BitDropout(0.3), nn.ReLU())
    program = torch.export.export(model, (torch.ones(3, 3),))
    assert torch.ops.aten.dropout.default in {node.target for node in program.graph.nodes}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_traced_it_is_torchs_dropout() -> None:
    traced = torch.jit.trace(BitDropout(0.3), torch.ones(3), check_trace=False)
    assert "aten::dropout" in str(traced.graph)


@pytest.mark.parametrize(("randomness", "same"), [("same", True), ("different", False)])
def test_vmap_decides_whether_samples_share_a_mask(randomness: str, same: bool) -> None:
    rows = torch.func.vmap(BitDropout(0.5), randomness=randomness)(torch.ones(2, 64))
    assert torch.equal(rows[0], rows[1]) is same


def test_other_devices_have_torchs_dropout() -> None:
    assert BitDropout(0.5)(torch.ones(3, device="meta")).is_meta


class Own(nn.Dropout):
    """A dropout of the user's."""


def test_plain_dropouts_are_replaced_wherever_they_are_and_others_stay() -> None:
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3, inplace=True)), Own(0.4))
    model[1].eval()
    use_bit_dropout(model)
    assert [type(layer) for layer in (model[0], model[1][0], model[2])] == [  # type: ignore[index]
        *(BitDropout, BitDropout, Own)
    ]
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    found = [(layer.p, layer.inplace, layer.training) for layer in layers]
    assert found == [(0.2, False, True), (0.3, True, False), (0.4, False, True)]
    assert not model.state_dict()


def test_a_layer_that_is_held_twice_stays_one() -> None:
    layer: Callable[[], nn.Module] = partial(nn.Dropout, 0.2)
    shared = layer()
    model = nn.ModuleList([shared, shared])
    use_bit_dropout(model)
    assert model[0] is model[1]
    assert isinstance(model[1], BitDropout)
