"""Low-rank adapters (LoRA, Hu et al. 2021) by PEFT: insert, train, count and merge."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_adls.errors import InputValueError, MissingPackageError
from lightning_adls.layers import QuantizedLayer
from lightning_adls.layers.adapter import keep_record
from lightning_adls.layers.carrying import check_parameters
from lightning_adls.layers.dropout import use_bit_dropout
from lightning_adls.transforms.walk import linear_layers, match, replace_layers

# Inputs on which the change by merging is measured.
_ROWS = 256


@dataclass(frozen=True)
class LoRA:
    """Freeze a model and add a trainable low-rank product to some of its linear layers.

    A layer with an adapter computes ``W x + b + alpha / rank * B A dropout(x)`` (Hu et al. 2021,
    section 4.1). ``B`` starts at zero, so inserting changes no output. The layer itself, its bias
    included, stays the same object; it is frozen and goes on to round and mask as it did, where it
    is one of ours. State dicts hold rank, alpha and dropout of each adapter, and loading one into
    a model whose adapters have another rank or alpha is refused.

    Args:
        layers: Shell patterns of the linear layers that get an adapter.
        rank: Rows of ``A``, ``(rank, in_features)``, and columns of ``B``, ``(out_features,
            rank)``; at least 1.
        alpha: Scale of the product, above 0, divided by ``rank``.
        dropout: Probability with which an element of the adapter's input is dropped in training,
            0 to below 1.
        trainable: Shell patterns of other parameters that are trained, such as those of a head that
            has not been trained yet.

    Raises:
        ImportError: If PEFT is not installed.
        ValueError: If an argument is out of range; when called, if a pattern matches nothing, the
            model has adapters already, or a layer that would get one is used in two places or
            shares its weight, or makes its weight anew before each call.

    Example:
        >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> LoRA(layers=("0",), rank=4, trainable=("2.*",))(model)
        >>> parameter_counts(model)
        ParameterCounts(trainable=162, total=434)
    """

    layers: tuple[str, ...] = ("*.query", "*.value")
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    trainable: tuple[str, ...] = ("classifier.*",)

    def __post_init__(self) -> None:
        if find_spec("peft") is None:
            raise MissingPackageError("LoRA: PEFT is not installed; run pip install 'peft>=0.18'.")
        for name in ("layers", "trainable"):
            if isinstance(getattr(self, name), str):
                value = getattr(self, name)
                raise InputValueError(f"LoRA: {name}={value!r} is not a list of patterns.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.layers:
            raise InputValueError(
                "LoRA: layers=() leaves no layer to adapt; '*' is every linear layer."
            )
        if self.rank < 1:
            raise InputValueError(f"LoRA: rank={self.rank} is below 1.")
        if not self.alpha > 0:
            raise InputValueError(f"LoRA: alpha={self.alpha} is not above 0.")
        if not 0 <= self.dropout < 1:
            raise InputValueError(f"LoRA: dropout={self.dropout} is not in 0 <= dropout < 1.")

    def __call__(self, model: nn.Module) -> None:
        """Add the adapters to ``model`` in place; what is not trained is frozen."""
        from peft import LoraConfig, inject_adapter_in_model

        names = self.check(model)
        # The names change where an adapter is put around a layer; the parameters do not.
        parameters = dict(model.named_parameters())
        trained = match(parameters, dict.fromkeys(self.trainable), "LoRA", "parameters")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # divided by the rank, so it may be a float
            lora_dropout=self.dropout,
            # As one regular expression: names in a list also match as the ends of longer names.
            target_modules="|".join(map(re.escape, names)),
        )
        # Each layer stays; what would read its weight, and miss the adapter, calls it from now on.
        replace_layers(model, names, lambda _, layer: layer, carry=False)
        inject_adapter_in_model(config, model)
        for name in names:
            layer = model.get_submodule(name)
            keep_record(layer)
            use_bit_dropout(layer.get_submodule("lora_dropout"))
        for name in trained:
            parameters[name].requires_grad_(True)

    def check(self, model: nn.Module) -> list[str]:
        """Refuse a model that cannot have the adapters, without changing it.

        Returns:
            The names of the layers that would get one.

        Raises:
            ValueError: If that is so; see the class.
        """
        if _adapted_layers(model):
            raise InputValueError(
                "LoRA: the model has adapters already; call merge_lora(model) first."
            )
        names = list(
            match(linear_layers(model), dict.fromkeys(self.layers), "LoRA", "linear layers")
        )
        for name in names:
            check_parameters(model.get_submodule(name), "LoRA")
        _refuse_shared(model, names)
        _refuse_tied(model, {name: model.get_submodule(name).weight for name in names}, "LoRA")
        return names


def merge_lora(model: nn.Module) -> float:
    """Add each adapter's product to the weight under it and take the adapter out again.

    The layers come back under their own names, so that the state dict fits a model that never had
    adapters. What was frozen stays frozen. Weights are merged in full precision: a quantised layer
    rounds and masks the sum from then on, while before it rounded the weight alone and left the
    adapter as it was, so that there the outputs differ by that rounding. Adapters whose own layers
    were quantised or pruned are merged as they are multiplied, rounded and masked.

    Returns:
        How much merging changed the outputs of a layer, at most: the norm of the difference
        relative to the norm of the output, in eval mode, on the same normal random numbers as
        input in every call. About 1e-7 in float32 where nothing is rounded.

    Raises:
        ValueError: If the model has no adapters, an adapter is on something else than a linear
            layer, the weight under it is packed, made anew before each call or used in another
            place, the adapter rounds or drops its input, or a sum is not finite. The model is
            unchanged then.
    """
    adapted = _adapted_layers(model)
    if not adapted:
        raise InputValueError("merge_lora: the model has no adapters.")
    for name, layer in adapted.items():
        _check_mergeable(name, layer)
    _refuse_tied(
        model,
        {name: layer.get_base_layer().weight for name, layer in adapted.items()},
        "merge_lora",
    )
    weights = [
        weight
        for layer in adapted.values()
        for weight in (*layer.get_base_layer().parameters(), *_adapter_weights(layer))
    ]
    # PEFT writes by exchanging `data`: what was there stays as it was.
    before = [(weight, weight.data) for weight in weights]
    try:
        changes = [_merge(name, layer) for name, layer in adapted.items()]
    except ValueError:
        for weight, data in before:
            weight.data = data
        for layer in adapted.values():
            layer.merged_adapters.clear()
        raise

    def base_of(name: str, _: nn.Module) -> nn.Module:
        base: nn.Module = adapted[name].get_base_layer()
        # PEFT writes through weight.data; a layer that keeps its rounded weight has to be told.
        return base.train(base.training)

    replace_layers(model, adapted, base_of, carry=False)
    for module in model.modules():
        vars(module).pop("peft_config", None)
    return max(changes)


def _check_mergeable(name: str, layer: Any) -> None:
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear) or "weight" not in base._parameters:
        raise InputValueError(
            f"merge_lora: layer {name!r} is a {type(base).__name__} without a weight of its own to "
            "add to; merge before packing or reparametrising, and other kinds of layers by PEFT."
        )
    for key, part in layer.named_modules():
        if not isinstance(part, QuantizedLayer) or key == "base_layer":
            continue
        if part.changes_input:
            raise InputValueError(
                f"merge_lora: layer '{name}.{key}' rounds or drops the input of an adapter, which "
                "no merged weight can do; quantise and prune before inserting adapters, or leave "
                "'*.lora_*' out by the pattern {'*.lora_*': None}."
            )


@torch.no_grad()
def _merge(name: str, layer: Any) -> float:
    """Merge one adapter and return the relative change of the layer's output."""
    base = layer.get_base_layer()
    training, weight = base.training, base.weight.data
    base.eval()
    x = torch.randn(_ROWS, base.in_features, generator=torch.Generator().manual_seed(0)).to(weight)
    output = type(base).forward(base, x)  # without hooks, which may count or keep what they see
    for part in layer.modules():
        if isinstance(part, QuantizedLayer) and part is not base:
            part.weight.data = part.rounded_weight()  # what is multiplied; it is thrown away
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise InputValueError(
            f"merge_lora: layer {name!r} plus its adapter is not finite; the adapter has diverged."
        ) from error
    finally:
        base.train(training)
    output = output + nn.functional.linear(x, base.weight - weight)
    merged = type(base).forward(base.eval(), x)
    base.train(training)
    return float((merged - output).norm() / output.norm().clamp_min(torch.finfo(x.dtype).tiny))


def _adapter_weights(layer: nn.Module) -> list[nn.Parameter]:
    return [
        parameter
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    ]


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Stop training the parameters whose names match one of the shell patterns.

    Raises:
        ValueError: If a pattern matches no parameter, or nothing is left to train.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> freeze(model, ["0.*"])
        >>> parameter_counts(model)
        ParameterCounts(trainable=10, total=30)
    """
    patterns = list(patterns)
    parameters = dict(model.named_parameters())
    frozen = match(parameters, dict.fromkeys(patterns), "freeze", "parameters")
    if not any(p.requires_grad for name, p in parameters.items() if name not in frozen):
        raise InputValueError(f"freeze: patterns={patterns} leave no parameter to train.")
    for name in frozen:
        parameters[name].requires_grad_(False)


class ParameterCounts(NamedTuple):
    """How many numbers a model holds in its parameters; one that is shared counts once."""

    trainable: int
    total: int


def parameter_counts(model: nn.Module) -> ParameterCounts:
    """Count the parameters of ``model``, adapters included."""
    parameters = list(model.parameters())  # each once, however often the model holds it
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return ParameterCounts(trainable, sum(p.numel() for p in parameters))


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _refuse_shared(model: nn.Module, names: Iterable[str]) -> None:
    """PEFT would put the adapter in one of the places only."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name in names:
        if places[id(model.get_submodule(name))] > 1:
            raise InputValueError(
                f"LoRA: layer {name!r} is used in two places; leave it out of layers."
            )


def _refuse_tied(model: nn.Module, weights: Mapping[str, Any], who: str) -> None:
    """Merging writes into the weight, and so into what else uses it."""
    users = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    for name, weight in weights.items():
        if users[id(weight)] > 1:
            raise InputValueError(
                f"{who}: layer {name!r} shares its weight with another layer, which merging would "
                "change as well; leave it out of layers, or give it a weight of its own: "
                "layer.weight = nn.Parameter(layer.weight.detach().clone())."
            )
