"""Pack linear layers, and count what a model takes in memory before and after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.layers.packed import PackedLinear
from lightning_adls.layers.stored_weight import StoredWeight
from lightning_adls.transforms.walk import linear_layers, match, replace_layers

_NORMS = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)
MEMORY_KINDS = (
    *("packed_codes", "packed_exponents", "linear_weights", "embeddings", "norms", "biases"),
    "other",
)


# What packed weights are made of.
_PACKED = {
    "codes": "packed_codes",
    "mask": "packed_codes",
    "exponents": "packed_exponents",
    "shared": "packed_exponents",
}


@dataclass(frozen=True)
class Pack:
    """Keep the weights of linear layers in MXINT8, for inference; see :class:`PackedLinear`.

    Args:
        layers: Shell patterns over module names (``*`` also matches dots); a linear layer is packed
            if one of them matches. A weight that it shares with a layer of another kind, an
            embedding, stays there in full.

    Raises:
        ValueError: If there is no pattern, or, when called, a pattern matches nothing or a layer
            cannot be packed. The model is unchanged then.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> Pack(["0"])(model)
        >>> type(model[0]).__name__, type(model[2]).__name__
        ('PackedLinear', 'Linear')
    """

    layers: Sequence[str] = ("*",)

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise InputValueError(f"Pack: layers={self.layers!r} is not a list of names of layers.")
        object.__setattr__(self, "layers", tuple(self.layers))

    def __call__(self, model: nn.Module) -> None:
        """Pack the layers of ``model`` in place."""
        names = match(linear_layers(model), dict.fromkeys(self.layers), "Pack")
        replace_layers(model, names, _packed)


def _packed(name: str, layer: nn.Module) -> PackedLinear:
    try:
        return PackedLinear.from_linear(layer)
    except ValueError as error:
        raise InputValueError(f"Pack: layer {name!r} cannot be packed. {error}") from error


def memory(model: nn.Module) -> dict[str, int]:
    """Bytes of a model's parameters and buffers, by what they are.

    A tensor that is used twice counts once, as what is named last below: the weight of a linear
    layer that is an embedding, too, is an embedding. Buffers that checkpoints leave out count,
    activations do not.

    Returns:
        ``packed_codes``, masks included, and ``packed_exponents``, shared scales included, of
        packed layers; ``linear_weights`` of the
        others; ``embeddings``; ``norms``, biases included; ``biases`` of all other layers; and
        ``other``, what is left (convolutions, masks, learned scales, positions). Their sum is
        everything.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 10), nn.LayerNorm(10))
        >>> {kind: size for kind, size in memory(model).items() if size}
        {'linear_weights': 2560, 'norms': 80, 'biases': 40}
        >>> Pack()(model)
        >>> {kind: size for kind, size in memory(model).items() if size}
        {'packed_codes': 640, 'packed_exponents': 20, 'norms': 80, 'biases': 40}
    """
    kinds: dict[int, tuple[int, str]] = {}
    for module, name, tensor in _tensors(model):
        kind, other = _kind(module, name), kinds.get(id(tensor), (0, MEMORY_KINDS[0]))[1]
        kinds[id(tensor)] = tensor.nbytes, max(kind, other, key=MEMORY_KINDS.index)
    sizes = dict.fromkeys(MEMORY_KINDS, 0)
    for size, kind in kinds.values():
        sizes[kind] += size
    return sizes


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in own:
            if isinstance(tensor, StoredWeight):
                yield from ((module, part, stored) for part, stored in tensor.stored().items())
            else:
                yield module, name, tensor


def _kind(module: nn.Module, name: str) -> str:
    if name in _PACKED:
        return _PACKED[name]
    if isinstance(module, _NORMS):
        return "norms"
    if name == "bias":
        return "biases"
    if name == "weight" and isinstance(module, nn.Linear):
        return "linear_weights"
    if name == "weight" and isinstance(module, nn.Embedding):
        return "embeddings"
    return "other"
