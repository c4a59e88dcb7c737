"""A layer that takes another's place keeps what the user had put on it, or is refused."""

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from samples import PAIRS, call
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import DataLoader

from lightning_adls.layers import COMPUTING, KINDS, RECORD_KEY, QuantizedLayer
from lightning_adls.transforms import Prune, Quantize
from lightning_adls.transforms.pack import Pack

ALL = tuple(KINDS)


def in_turn(model: nn.Module, *changes: Callable[[nn.Module], None]) -> None:
    for change in changes:
        change(model)


MXINT8 = {"*": {"weight": "MXInt(width=8)"}}
CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "Quantize": Quantize({"*": "MXInt(width=8)"}, kinds=ALL),
    "Prune": Prune(0.5, kinds=ALL),
    "back": lambda model: in_turn(
        model, Quantize(MXINT8, kinds=ALL), Quantize({"*": None}, kinds=ALL)
    ),
}
LINEAR: dict[str, Callable[[nn.Module], None]] = {
    **CHANGES,
    "Pack": Pack(),
    "mase": Quantize({"*": "MXInt(width=8)"}, backend="mase"),
    "all": lambda model: in_turn(model, Prune(0.5), Quantize(MXINT8), Pack()),
}
CASES = [*((k, c) for k in PAIRS for c in CHANGES), *(("Linear", c) for c in LINEAR)]


class Half(nn.Module):
    """A parametrisation."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, x: Tensor) -> Tensor:
        return 2 * x


def sample(kind: str) -> tuple[Any, Tensor]:
    return PAIRS[kind]()


def replaced(layer: nn.Module, change: str) -> Any:
    model: Any = nn.Sequential(layer)
    LINEAR[change](model)
    assert model[0] is not layer
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    return model[0]


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_hooks_of_all_sorts_are_called_and_can_be_removed(kind: str, change: str) -> None:
    layer, x = sample(kind)
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: calls.append(name)

    handles = [
        layer.register_forward_pre_hook(note("before")),
        layer.register_forward_pre_hook(note("before, names"), with_kwargs=True),
        layer.register_forward_hook(note("after")),
        layer.register_forward_hook(note("after, names"), with_kwargs=True),
        layer.register_full_backward_pre_hook(note("backward, before")),
        layer.register_full_backward_hook(note("backward")),
        layer.register_state_dict_pre_hook(note("save, before")),
        layer.register_state_dict_post_hook(note("save")),
        layer.register_load_state_dict_pre_hook(note("load, before")),
        layer.register_load_state_dict_post_hook(note("load")),
    ]
    new = replaced(layer, change)
    del layer  # a hook that holds it weakly must not die with it

    def use() -> set[str]:
        calls.clear()
        call(new, x if kind == "Embedding" else x.requires_grad_()).sum().backward()
        new.load_state_dict(new.state_dict())
        return set(calls)

    assert len(use()) == len(handles)
    for handle in handles:
        handle.remove()
    assert not use()


def test_a_hook_on_loading_gets_the_layer_that_is_loaded() -> None:
    (layer, _), seen = sample("Linear"), []
    layer.register_load_state_dict_pre_hook(lambda module, *_: seen.append(module))
    new = replaced(layer, "Quantize")
    new.load_state_dict(new.state_dict())
    assert seen == [new]


def test_a_hook_that_is_always_called_is_called_after_an_error() -> None:
    (layer, _), calls = sample("Linear"), []
    layer.register_forward_hook(lambda *_: calls.append(1), always_call=True)
    new = replaced(layer, "Quantize")
    with pytest.raises(RuntimeError):
        new(torch.randn(2, 3))
    assert calls == [1]


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_attributes_tensors_and_modes_are_kept(kind: str, change: str) -> None:
    layer, _ = sample(kind)
    layer.eval().requires_grad_(False)
    layer.note, layer.shared = "mine", ["mine"]
    layer.register_buffer("count", torch.tensor(3))
    layer.register_buffer("hidden", torch.tensor(4), persistent=False)
    layer.gain = nn.Parameter(torch.ones(2))
    layer.norm = nn.LayerNorm(2)
    new = replaced(layer, change)
    assert new.note == "mine"
    assert new.shared is layer.shared
    assert new.gain is layer.gain
    assert new.norm is layer.norm
    assert not new.training
    assert [name for name, p in new.named_parameters() if p.requires_grad] == [
        *("gain", "norm.weight", "norm.bias")
    ]
    assert {"count", "gain", "norm.weight"} <= set(new.state_dict())
    assert "hidden" not in new.state_dict()
    assert new.hidden == 4


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_copies_and_pickles_have_hooks_and_attributes(kind: str, change: str) -> None:
    layer, x = sample(kind)
    layer.note = "mine"
    layer.register_forward_hook(_negate)
    new = replaced(layer, change).eval()
    file = io.BytesIO()
    torch.save(new, file)
    file.seek(0)
    for twin in (
        *(copy.deepcopy(new), pickle.loads(pickle.dumps(new))),
        torch.load(file, weights_only=False),
    ):
        assert twin.note == "mine"
        assert torch.equal(call(twin, x), call(new, x))
        twin._forward_hooks.clear()
        assert torch.equal(-call(twin, x), call(new, x))


def _negate(_module: nn.Module, _args: Any, output: Any) -> Any:
    return (-output[0], output[1]) if isinstance(output, tuple) else -output


@pytest.mark.parametrize("change", ["Quantize", "mase", "Prune", "Pack"])
def test_what_a_layer_made_itself_does_not_go_on_to_the_next(change: str) -> None:
    once, twice = nn.Sequential(nn.Linear(32, 4)), nn.Sequential(nn.Linear(32, 4))
    for text in ("LearnedInteger(width=4)", "MXInt(width=8)"):
        Quantize({"*": {"input": text, "weight": "MXInt(width=8)"}})(twice)
    LINEAR[change](once)
    LINEAR[change](twice)
    assert vars(once[0]).keys() == vars(twice[0]).keys()
    # Pruning keeps the recipe that a layer has.
    recipe = {f"0.{RECORD_KEY}"} if change == "Prune" else set()
    assert twice.state_dict().keys() - once.state_dict().keys() == recipe
    assert once.state_dict().keys() <= twice.state_dict().keys()


@pytest.mark.parametrize("change", ["Quantize", "Prune", "Pack"])
@pytest.mark.parametrize(
    "wrap",
    [
        *(nn.utils.weight_norm, nn.utils.spectral_norm),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_unstructured(layer, "bias", 0.5),
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: parametrize.register_parametrization(layer, "bias", Half()),
    ],
)
@pytest.mark.parametrize("first", [None, Quantize(MXINT8)])
def test_a_layer_that_makes_its_weight_anew_is_refused_or_left_as_it_is(
    wrap: Callable[[nn.Module], nn.Module], change: str, first: Quantize | None
) -> None:
    model: Any = nn.Sequential(nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    if first:
        first(model)
    x, before, message = torch.randn(3, 32), model[2], ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            wrap(model[0])
        except ValueError as error:
            message = str(error)
    keys, wrapped, expected = set(model.state_dict()), model[0], model(x)
    if not message:
        try:
            LINEAR[change](model)
        except ValueError as error:
            message = str(error)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    if message:
        assert re.match(
            r"(Pack: layer '0' cannot be packed\. )?(Quantized|Packed)Linear: ", message
        )
        assert "\n" not in message
        assert model[0] is wrapped
        assert model[2] is before
        assert set(model.state_dict()) == keys
        assert torch.equal(model(x), expected)
    else:
        assert model[0] is wrapped
        assert keys <= set(model.state_dict()) | {"2.weight"}
        if change == "Prune" and first:
            assert (model[0].rounded_weight() == 0).sum() == 64


def test_torch_pruning_that_was_removed_can_be_quantised() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.remove(model[0], "weight")
    Quantize(MXINT8)(model)
    assert (model[0].rounded_weight() == 0).sum() >= 64


def test_torch_pruning_of_a_bias_and_a_parametrised_bias_are_rounded_after_quantising() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 4))
    Quantize({"*": {"bias": "Integer(width=8, frac_width=6)"}})(model)
    layer, x = model[0], torch.randn(2, 32)
    bias = layer.bias.detach().clone()
    prune.custom_from_mask(layer, "bias", torch.tensor([0, 1, 0, 1]))
    expected = (bias * 64).round() / 64 * torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(call(layer, x) - x @ layer.weight.T, expected.expand(2, 4))
    prune.remove(layer, "bias")
    parametrize.register_parametrization(layer, "bias", Half())
    torch.testing.assert_close(call(layer, x) - x @ layer.weight.T, expected.expand(2, 4))


def test_lightning_model_pruning_of_quantised_layers_is_refused_in_one_sentence() -> None:
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1))

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return torch.as_tensor(self.net(batch).sum())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(module: Module) -> None:
        L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ModelPruning("l1_unstructured", amount=0.5, use_global_unstructured=False)],
        ).fit(module, DataLoader(torch.randn(4, 8)))  # type: ignore[arg-type]

    module = Module()
    fit(module)  # made permanent at the end, so that quantising comes after it
    Quantize(MXINT8)(module)
    assert isinstance(module.net[0], QuantizedLayer)
    with pytest.raises(ValueError, match=r"QuantizedLinear: torch\.nn\.utils\.prune cannot mask"):
        fit(module)
    assert "net.0.weight" in module.state_dict()


def test_what_is_bound_to_the_old_layer_and_names_that_are_taken_are_refused() -> None:
    def model() -> Any:
        return nn.Sequential(nn.Linear(32, 4), nn.Linear(4, 2))

    own, compiled, named, masked = model(), model(), model(), model()
    own[1].forward = own[1].forward
    compiled[1].compile(backend="eager")
    named[1].formats = "mine"
    masked[1].register_buffer("weight_mask", torch.ones(2, 4))
    for changed, message in (
        (own, "has a method 'forward' of its own"),
        (compiled, "was compiled by itself"),
        (named, "has a 'formats' of yours, a name that QuantizedLinear uses"),
        (masked, "has a 'weight_mask' of yours"),
    ):
        for change in ("Quantize", "Prune", "Pack"):
            with pytest.raises(ValueError, match=message):
                LINEAR[change](changed)
            assert type(changed[0]) is nn.Linear
    codes = model()
    codes[1].codes = "mine"
    with pytest.raises(ValueError, match="has a 'codes' of yours, a name that PackedLinear uses"):
        Pack()(codes)
    Quantize(dict.fromkeys(["0"], "Integer"), COMPUTING)(codes)
    assert codes[1].codes == "mine"
