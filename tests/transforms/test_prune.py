"""Unstructured pruning: how many weights, which ones, and that they stay pruned."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_adls.formats import Binary, Integer
from lightning_adls.layers import LayerFormats, QuantizedLayer, quantized
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.cost import sparsity_of
from lightning_adls.transforms.prune import Prune
from lightning_adls.transforms.walk import layers_of


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Linear(6, 5), nn.Sequential(nn.Linear(5, 2, bias=False))
    )


def parameters(model: nn.Module) -> list[nn.Parameter]:
    return [layer.get_parameter("weight") for layer in layers_of(model).values()]


def masks(model: nn.Module) -> list[Tensor]:
    found = [getattr(layer, "weight_mask", None) for layer in layers_of(model).values()]
    assert all(mask is not None for mask in found)
    return [mask.clone() for mask in found if mask is not None]


def weights(model: nn.Module) -> list[Tensor]:
    return [m.rounded_weight().detach() for m in model.modules() if isinstance(m, QuantizedLayer)]


@given(
    sparsities=st.lists(st.floats(0, 0.999), min_size=1, max_size=4).map(sorted),
    method=st.sampled_from(["l1", "random"]),
    scope=st.sampled_from(["local", "global"]),
    values=st.integers(1, 100),
    seed=st.integers(0, 2**31),
)
def test_exactly_the_share_is_pruned_and_zeros_only_grow(sparsities, method, scope, values, seed):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    model, before = network(), None
    for sparsity in sparsities:
        for p in model.parameters():  # with few values there are ties and zeros
            p.data = torch.randint(-values, values, p.shape) / values
        Prune(sparsity, method, scope)(model)
        now = masks(model)
        groups = [torch.cat([mask.flatten() for mask in now])] if scope == "global" else now
        for mask in groups:
            assert (~mask).sum() == round(sparsity * mask.numel())
        if before is not None:
            assert all((new <= old).all() for new, old in zip(now, before, strict=True))
        before = now


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_smallest_magnitudes_among_the_weights_that_are_left_are_pruned(scope: str) -> None:
    model = network()
    pruned = [np.zeros(weight.numel(), bool) for weight in parameters(model)]
    for sparsity in (0.3, 0.8):
        for p in model.parameters():
            p.data = torch.randn_like(p)  # what was pruned may be large now, and stays pruned
        Prune(sparsity, "l1", scope)(model)  # type: ignore[arg-type]
        flat = [weight.detach().numpy().ravel() for weight in parameters(model)]
        ranks = [np.where(p, -1, np.abs(w)) for p, w in zip(pruned, flat, strict=True)]
        for n, rank in enumerate(ranks):
            pool = np.sort(np.concatenate(ranks) if scope == "global" else rank)
            pruned[n] = rank < pool[round(sparsity * len(pool))]
    for mask, expected in zip(masks(model), pruned, strict=True):
        assert np.array_equal(~mask.numpy().ravel(), expected)


def test_random_repeats_with_its_seed_and_leaves_the_global_generator_alone() -> None:
    first, again, other = network(), network(), network()
    state = torch.get_rng_state()
    Prune(0.5, "random", seed=3)(first)
    Prune(0.5, "random", seed=3)(again)
    Prune(0.5, "random", seed=4)(other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, masks(first), masks(again)))
    assert not any(map(torch.equal, masks(first), masks(other)))


def test_random_in_steps_prunes_the_same_weights_as_at_once() -> None:
    steps, once = network(), network()
    for sparsity in (0.1, 0.4, 0.7):
        Prune(sparsity, "random", "global")(steps)
    Prune(0.7, "random", "global")(once)
    assert all(map(torch.equal, masks(steps), masks(once)))


def test_random_prunes_layers_of_one_shape_differently() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    Prune(0.5, "random")(model)
    assert not torch.equal(*masks(model))


def test_pruned_weights_stay_zero_while_adamw_trains_the_rest(mlp: nn.Sequential) -> None:
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.1, weight_decay=0.1)
    Prune(0.5)(mlp)  # the parameters are the same objects: the optimiser stays valid
    before, kept = weights(mlp), masks(mlp)
    for _ in range(5):
        optimizer.zero_grad()
        mlp(torch.randn(8, 16)).square().sum().backward()
        optimizer.step()
    for weight, old, mask in zip(weights(mlp), before, kept, strict=True):
        assert torch.equal(weight == 0, ~mask)
        assert (weight != old)[mask].all()


@pytest.mark.parametrize("fmt", ["Binary", "Integer(width=4, frac_width=3)", "MXInt(width=4)"])
def test_the_order_of_pruning_and_quantising_does_not_matter(fmt: str) -> None:
    first, second = network(), network()
    second.load_state_dict(first.state_dict())
    Prune(0.5)(first)
    Quantize({"*": fmt})(first)
    Quantize({"*": fmt})(second)
    Prune(0.5)(second)
    assert all(map(torch.equal, weights(first), weights(second)))
    if fmt == "Binary":  # which holds no zero of its own
        assert sparsity_of(first) == sum(int((w == 0).sum()) for w in weights(first)) / 112


def test_magnitudes_are_those_before_rounding() -> None:
    layer = quantized(nn.Linear(4, 1), LayerFormats(weight=Binary()))
    layer.weight.data = torch.tensor([[0.4, -0.1, 0.3, 0.2]])
    Prune(0.5)(nn.Sequential(layer))
    assert layer.weight_mask is not None
    assert layer.weight_mask.tolist() == [[True, False, True, False]]


def test_masks_travel_in_checkpoints() -> None:
    pruned, fresh, prepared = network(), network(), network()
    Prune(0.6)(pruned)
    Prune(0.0)(prepared)
    Quantize({"*": "Integer"})(fresh)
    Quantize({"*": None})(fresh)
    for model in (fresh, prepared):
        model.load_state_dict(pruned.state_dict())
        assert all(map(torch.equal, masks(model), masks(pruned)))


def test_sparsity_counts_masks_alone_and_layers_without_one_as_dense() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 6))
    nn.init.zeros_(parameters(model)[1])
    assert sparsity_of(model) == 0
    Prune(0.5, layers=["1"])(model)
    assert sparsity_of(model) == 8 / (16 + 24)
    Prune(0.5, kinds=["Embedding"])(model)
    assert sparsity_of(model) == (8 + 20) / (16 + 24 + 40)
    with pytest.raises(ValueError, match="sparsity_of: model=ReLU has no layer"):
        sparsity_of(nn.ReLU())


def test_only_matched_layers_are_swapped_and_formats_stay(mlp: nn.Sequential) -> None:
    Quantize({"2": {"weight": "Integer"}})(mlp)
    Prune(0.5, layers=("2", "3.*"))(mlp)
    assert type(mlp[0]) is nn.Linear
    assert isinstance(mlp[2], QuantizedLayer)
    assert mlp[2].formats == LayerFormats(weight=Integer())


def test_activations_are_pruned_only_where_that_is_asked_for() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 6))
    Prune(0.0, layers=["0", "1"], kinds=["Embedding", "Linear"], activation_sparsity=0.5)(model)
    Prune(0.2)(model)
    assert [layer.input_sparsity for layer in model] == [0.0, 0.5, 0.0]


@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_sparser_model_is_refused_and_not_changed(scope: str) -> None:
    model = network()
    Prune(0.5, layers=["2"])(model)
    before = model.state_dict()
    wrong = Prune(0.1, scope=scope)  # type: ignore[arg-type]
    who = "2" if scope == "local" else "the model"
    with pytest.raises(ValueError, match=f"Prune: sparsity=0.1 is below the 0.* that {who} has"):
        wrong(model)
    assert list(model.state_dict()) == list(before)
    wrong.prune_up_to(model)
    assert masks(model)[1].float().mean() == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0 is not in 0 <= sparsity < 1"),
        ({"sparsity": -0.1}, "sparsity=-0.1 is not"),
        ({"sparsity": float("nan")}, "sparsity=nan is not"),
        ({"activation_sparsity": 1.0}, "activation_sparsity=1.0 is not"),
        ({"method": "l2"}, "method='l2' is neither 'l1' nor 'random'"),
        ({"scope": "layer"}, "scope='layer' is neither 'local' nor 'global'"),
        ({"layers": "*.query"}, r"layers='\*.query' is not a list"),
        ({"layers": []}, r"layers=\[\] is not a list"),
        ({"kinds": "Linear"}, "kinds='Linear' is not a list"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"Prune: {message}"):
        Prune(**{"sparsity": 0.5, **arguments})  # type: ignore[arg-type]


def test_names_that_are_not_there_are_refused(mlp: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="Prune: pattern 'head' matches none of the 3 layers"):
        Prune(0.5, layers=["*", "head"])(mlp)
    with pytest.raises(ValueError, match="names 'Conv4d'"):
        Prune(0.5, kinds=["Conv4d"])(mlp)
    assert type(mlp[0]) is nn.Linear


def test_the_text_form_makes_the_same_pruning() -> None:
    pruning = Prune(0.5, "random", layers=["*.query"], seed=1)
    assert eval(str(pruning)) == pruning
