"""Which weights a model multiplies with and who holds them, read from its modules."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import KINDS, LayerFormats, QuantizedLayer
from lightning_adls.layers.stored_weight import is_stored
from lightning_adls.transforms.walk import layers_of

# What they hold scales element by element.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_MULTIPLYING = (
    *(QuantizedLayer, nn.Linear, _ConvNd, nn.Bilinear, nn.MultiheadAttention),
    *_RECURRENT,
)


class Role(Enum):
    """What is done with a parameter of two or more dimensions."""

    MULTIPLIED = "multiplied with"
    UNKNOWN = "multiplied with or added"
    LOOKED_UP = "looked up"
    ADDED = "added"


@dataclass(frozen=True, eq=False)
class Use:
    """A weight, in one of the modules that hold it.

    Args:
        name: Of the weight, within the model.
        module_name: Of what holds it; "" is the model itself.
        module: What holds it.
        tensor: The parameter, which is another than the weight if that is made from it.
        elements: Of the weight; 0 if it has no size yet.
        role: What is done with it.
        obstacle: Why no recipe reaches it, in a few words; None if it is that of a layer of one of
            the ``KINDS``.
    """

    name: str
    module_name: str
    module: nn.Module
    tensor: Tensor
    elements: int
    role: Role
    obstacle: str | None

    @property
    def multiplied(self) -> bool:
        """Whether it counts as multiplied with, for all that is known."""
        return self.role in (Role.MULTIPLIED, Role.UNKNOWN)

    @property
    def key(self) -> str:
        """Name of the weight within its module."""
        return self.name[len(self.module_name) :].removeprefix(".")

    @property
    def label(self) -> str:
        """The layer, where it is one that has weights; the parameter elsewhere."""
        return (self.module_name or self.name) if "weight" in self.key else self.name

    @property
    def format(self) -> NumberFormat | None:
        """What the module rounds the weight to."""
        layer = self.module
        if self.obstacle is not None or not isinstance(layer, QuantizedLayer):
            return None
        # Of a packed layer the switch is about input and bias; one that waits is about to round.
        rounds = layer.enabled or layer.waiting or is_stored(layer)
        return layer.formats.weight if rounds else None

    @property
    def reason(self) -> str | None:
        """Why the module does not round the weight, in a few words; None if it does."""
        layer = self.module
        if self.obstacle is not None or self.format is not None:
            return self.obstacle
        if not isinstance(layer, QuantizedLayer):
            return f"{type(layer).__name__}, in no recipe"
        if layer.formats.weight is not None:
            return "switched off"
        if layer.formats == LayerFormats():
            return "no formats"
        return f"no format for the weight, input={layer.formats.input}"

    @property
    def full_bits(self) -> int:
        """Of the whole weight in its data type."""
        return self.elements * self.bits_each

    @property
    def bits_each(self) -> int:
        """Of one element in its data type."""
        return 8 * self.tensor.dtype.itemsize


def weights_of(model: nn.Module) -> list[tuple[Use, ...]]:
    """Each weight once, with all its uses, in the order of ``named_modules``.

    What counts as multiplied with is decided by what holds a parameter of two or more dimensions.
    Layers of the ``KINDS``, their subclasses, recurrent layers and attention multiply; embeddings
    look up; norms scale. Of what other modules hold, nothing counts that is called a bias or has
    the shape of what is added to a batch, such as ``(1, positions, features)``, and all else does:
    whether it is multiplied with is then not known, and leaving it out would be silent. Weights
    that a parametrisation or a hook makes before each call count as made. A weight that a forward
    reads from another module, and buffers other than packed weights, are not seen.
    """
    uses: dict[int, list[Use]] = {}
    reachable = {id(layer) for layer in layers_of(model, tuple(KINDS)).values()}
    skipped: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        # What a weight is made from is told with the layer that it is made for.
        if name.rpartition(".")[0] in skipped or isinstance(module, ParametrizationList):
            skipped.add(name)
            continue
        for use in _uses(name, module, id(module) in reachable):
            uses.setdefault(id(use.tensor), []).append(use)
    return [tuple(found) for found in uses.values()]


def multiplied_weights(model: nn.Module) -> list[tuple[Use, ...]]:
    """Of each weight that is multiplied with, the uses that do so."""
    weights = [tuple(use for use in uses if use.multiplied) for uses in weights_of(model)]
    return [uses for uses in weights if uses]


def refuse_lazy(model: nn.Module, who: str) -> None:
    """Refuse a model with a parameter that has no size yet; ``who`` begins the error message.

    Raises:
        ValueError: If that is so.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise InputValueError(
                f"{who}: parameter {name!r} has no size yet; run a batch through the model first."
            )


def shortened(names: Iterable[str]) -> str:
    """The first three names and how many more there are."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _uses(name: str, module: nn.Module, reachable: bool) -> Iterator[Use]:
    if isinstance(module, _NORMS):
        return
    for key, tensor, elements, obstacle in (*_parametrised(module), *_own(module)):
        if obstacle is None and not (reachable and key.endswith("weight")):
            obstacle = _obstacle(module, key)
        full_name = f"{name}.{key}" if name else key
        yield Use(full_name, name, module, tensor, elements, _role(module, key, tensor), obstacle)


# Key, parameter and elements of a weight, and what makes it anew before each call.
_Found = tuple[str, Tensor, int, str | None]


def _own(module: nn.Module) -> Iterator[_Found]:
    for key, parameter in module._parameters.items():
        if parameter is None or _is_bias(key):
            continue
        made_key, made_by = _hook(module, key)
        has_no_size: bool = is_lazy(parameter)
        if has_no_size:
            yield key, parameter, 0, "not initialised, run a batch first"
        elif made_by:
            yield made_key, parameter, vars(module)[made_key].numel(), f"made by {made_by}"
        elif parameter.dim() > 1 and not made_key:
            yield key, parameter, parameter.numel(), None


def _hook(module: nn.Module, key: str) -> tuple[str, str]:
    """The weight that a hook makes from a parameter, and by what; of two sources one tells."""
    made_key, _, source = key.rpartition("_")
    if source not in ("orig", "g", "v") or not isinstance(vars(module).get(made_key), Tensor):
        return "", ""
    if source == "orig":
        spectral = f"{made_key}_u" in module._buffers
        return made_key, "spectral_norm" if spectral else "torch.nn.utils.prune"
    return made_key, "weight_norm" if source == "v" else ""


def _parametrised(module: nn.Module) -> Iterator[_Found]:
    if not is_parametrized(module):
        return
    for key, made in cast(nn.ModuleDict, module.parametrizations).items():
        assert isinstance(made, ParametrizationList)
        sources = list(made.parameters(recurse=False))
        if sources and not _is_bias(key) and len(shape := _made_shape(made)) > 1:
            makers = ", ".join(type(maker).__name__.removeprefix("_") for maker in made)
            # A quantised layer rounds what it is given.
            obstacle = None if isinstance(module, QuantizedLayer) else f"parametrised by {makers}"
            yield key, max(sources, key=Tensor.numel), shape.numel(), obstacle


def _made_shape(made: ParametrizationList) -> torch.Size:
    if (original := made._parameters.get("original")) is not None:
        return original.shape
    modes = [(module, module.training) for module in made.modules()]
    try:
        made.eval()  # some change buffers when they are trained
        with torch.no_grad():
            return cast(Tensor, made()).shape
    finally:
        for module, training in modes:
            module.training = training


def _is_bias(key: str) -> bool:
    # Also tables of relative positions, which are added to scores.
    return "bias" in key


def _role(module: nn.Module, key: str, tensor: Tensor) -> Role:
    if isinstance(module, _LOOKUPS) and key == "weight":
        return Role.LOOKED_UP
    if is_lazy(tensor) or (isinstance(module, _MULTIPLYING) and "weight" in key):
        return Role.MULTIPLIED
    wide = sum(size != 1 for size in tensor.shape)
    if tensor.shape[0] == 1 or (wide < 2 and tensor.dim() > 2):
        return Role.ADDED  # to a batch, along its first dimension
    return Role.MULTIPLIED if key == "weight" else Role.UNKNOWN


def _obstacle(module: nn.Module, key: str) -> str | None:
    """What keeps a recipe from a parameter that nothing makes."""
    found = type(module).__name__
    if isinstance(module, QuantizedLayer) and key.endswith("weight"):
        return None
    if key != "weight" and not ("weight" in key and isinstance(module, _MULTIPLYING)):
        return f"a parameter of {found}, perhaps only added"
    if isinstance(module, nn.MultiheadAttention):
        return f"fused projections of {found}"
    if found in KINDS:
        return "the model itself, which nothing can replace"
    if bases := [base.__name__ for base in type(module).__mro__ if base.__name__ in KINDS]:
        return f"{found}, a subclass of {bases[0]} whose owner may read the weight"
    return f"{found} is of no kind"
