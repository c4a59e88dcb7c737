"""Choose the range of integer formats from the numbers that a model computes with."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.formats.base import OBSERVERS
from lightning_adls.layers import (
    LayerFormats,
    QuantizedLayer,
    bias_of,
    quantized_type_of,
    weight_of,
)
from lightning_adls.layers.carrying import carry_over
from lightning_adls.transforms.owners import calling_attentions
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import exchange, layers_of

SAMPLE_SIZE = 2**16


def calibrate(
    model: nn.Module,
    recipe: Quantize,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    observer: str = "mse",
) -> Quantize:
    """Choose the ``frac_width`` of a recipe's integer formats from data.

    The model runs on the batches unquantised, in eval mode and without gradients. Inputs are
    observed at the layers, weights and biases are the parameters, without what a mask removes.
    Formats that follow the data by themselves stay as the recipe has them. The outcome depends on
    nothing random, and the model is left as it was.

    Args:
        model: The model, quantised or not.
        recipe: What to quantise, and how.
        batches: A few batches, on the device of the model.
        forward: Runs the model on a batch; by default the model is called with the batch.
        observer: How a range is chosen: "minmax" (the finest resolution at which nothing
            saturates), "percentile" (at which 99.9 % of the magnitudes other than 0 do not) or
            "mse" (of least mean squared error).

    Returns:
        A recipe that names each layer, with its formats; a strict one also names what it leaves
        out.

    Raises:
        ValueError: If there is no such observer or no batch, a pattern of the recipe matches
            nothing, or a layer whose input is to be rounded got none.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> recipe = Quantize({"*": {"input": "Integer(width=8)"}})
        >>> calibrate(model, recipe, [torch.tensor([[-100.0, 60.0]])], observer="minmax").to_dict()
        {'0': {'input': 'Integer(width=8, frac_width=0)', 'weight': None, 'bias': None}}
    """
    check_observer(observer, "calibrate")
    layers = layers_of(model, recipe.kinds)
    formats = recipe.match(model, "calibrate")
    rounding = {name: layers[name] for name, choice in formats.items() if choice.input is not None}
    with _plain_evaluation(model), _every_layer_called(model, rounding), torch.no_grad():
        inputs = _observe_inputs(rounding, batches, forward or model)
    if missing := [name for name in rounding if name not in inputs]:
        raise InputValueError(
            f"calibrate: recipe rounds the input of {', '.join(missing)}, which got none from the "
            "batches; leave out such layers, or their input."
        )
    calibrated = {
        escape(name): _calibrated(layers[name], choice, inputs.get(name), observer)
        for name, choice in formats.items()
    }
    kept = {escape(name): LayerFormats() for name in recipe.left_out_on_purpose(model)}
    return replace(recipe, layers=(kept if recipe.strict else {}) | calibrated)


def check_observer(observer: str, who: str) -> None:
    """Refuse a name that is no observer's."""
    if observer not in OBSERVERS:
        choices = " or ".join(map(repr, OBSERVERS))
        raise InputValueError(f"{who}: observer={observer!r} is not a choice; use {choices}.")


@contextmanager
def _plain_evaluation(model: nn.Module) -> Iterator[None]:
    """Eval mode with formats switched off; on exit all modules are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    switches = [(m, m.waiting) for m in model.modules() if isinstance(m, QuantizedLayer)]
    try:
        model.eval()
        for layer, _ in switches:
            layer.waiting = True
        yield
    finally:
        for layer, waiting in switches:
            layer.waiting = waiting
        for module, training in modes:  # parents first, so that children have the last word
            module.train(training)


@contextmanager
def _every_layer_called(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """No owner reads the weight of one of the layers; on exit the model is as it was."""
    modules = list(model.modules())
    attentions = calling_attentions(modules, set(map(id, layers.values())))
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for plain, calling in attentions:
            carry_over(plain, calling)
        exchange(modules, {id(plain): calling for plain, calling in attentions})
        yield
    finally:
        for plain, calling in attentions:
            carry_over(calling, plain)
        exchange(modules, {id(calling): plain for plain, calling in attentions})
        torch.backends.mha.set_fastpath_enabled(fused)


def _input_names(layer: nn.Module) -> tuple[str, ...]:
    quantized_type = quantized_type_of(layer)
    assert quantized_type is not None
    return quantized_type.input_names


def _observe_inputs(
    layers: Mapping[str, nn.Module], batches: Iterable[Any], forward: Callable[[Any], Any]
) -> dict[str, "_Observed"]:
    """What the layers that are reached get as input, by name."""
    observed: dict[str, _Observed] = {}
    names = {name: _input_names(layer) for name, layer in layers.items()}

    def remember(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [*args[: len(names[name])], *(kwargs[n] for n in names[name][len(args) :])]
        entry = observed.setdefault(name, _Observed())
        for x in {id(x): x for x in inputs}.values():  # an attention to itself has one
            if x.is_floating_point():  # the indices of an embedding are not rounded
                entry.add(x)

    ran = False
    with ExitStack() as stack:
        for name, layer in layers.items():
            hook = partial(remember, name)
            stack.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        # Code that was compiled before does not call the hooks.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for batch in batches:
            forward(batch)
            ran = True
    if not ran:
        raise InputValueError("calibrate: batches is empty; at least one batch is needed.")
    return observed


def _calibrated(
    layer: nn.Module, formats: LayerFormats, inputs: "_Observed | None", observer: str
) -> LayerFormats:
    weight, bias = weight_of(layer), bias_of(layer)
    kept: Tensor | None = getattr(layer, "weight_mask", None)
    observed = {
        "input": inputs,
        "weight": _Observed.of(weight if kept is None else weight[kept]),
        "bias": None if bias is None else _Observed.of(bias),
    }
    chosen = {}
    for role, values in observed.items():
        fmt: NumberFormat | None = getattr(formats, role)
        if fmt is not None and values is not None:
            chosen[role] = values.calibrated(fmt, observer)
    return replace(formats, **chosen)


class _Observed:
    """The range of some values, and an even sample of them.

    NaN and infinities do not count. The sample is of at most ``SAMPLE_SIZE`` values, spread evenly
    over all that were added, and the same in every run.
    """

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._seen = 0
        self._sample = torch.empty(0)
        # Values whose key is below the limit are in the sample.
        self._keys = torch.empty(0, dtype=torch.int64)
        self._limit = 2**32

    @classmethod
    def of(cls, x: Tensor) -> "_Observed":
        observed = cls()
        observed.add(x)
        return observed

    def add(self, x: Tensor) -> None:
        x = x.detach().flatten()
        finite = x.isfinite()
        if not finite.any():
            return
        self._low = min(self._low, x[finite].min().item())
        self._high = max(self._high, x[finite].max().item())
        # Multiples of the golden ratio, in 32 bits, are spread evenly (Knuth, The Art of Computer
        # Programming, volume 3, section 6.4). A stride could meet the same features in every row.
        places = torch.arange(self._seen, self._seen + x.numel(), device=x.device)
        keys = places * 2654435769 & (2**32 - 1)
        self._seen += x.numel()
        chosen = finite & (keys < self._limit)
        self._sample = torch.cat([self._sample.to(x), x[chosen]])
        self._keys = torch.cat([self._keys.to(x.device), keys[chosen]])
        while self._sample.numel() > SAMPLE_SIZE:
            self._limit //= 2
            chosen = self._keys < self._limit
            self._sample, self._keys = self._sample[chosen], self._keys[chosen]

    def calibrated(self, fmt: NumberFormat, observer: str) -> NumberFormat:
        """``fmt`` with the range that suits the values; as it is if there are none."""
        if self._low > self._high:
            return fmt
        return fmt.calibrated(self._low, self._high, self._sample, observer)
