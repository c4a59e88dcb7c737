"""Leave out layers whose input and output have the same width."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.transforms.walk import linear_layers, match, replace_layers


@dataclass(frozen=True)
class Drop:
    """Replace linear layers by the identity, parameters and computation and all.

    Args:
        layers: Shell patterns over module names; ``*`` also matches dots.

    Raises:
        ValueError: If there is no pattern, or, when called, a pattern matches nothing or a layer
            whose outputs are not as many as its inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> Drop(["0"])(model)
        >>> model[0]
        Identity()
    """

    layers: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.layers, str) or not self.layers:
            raise InputValueError(f"Drop: layers={self.layers!r} is not a list of names of layers.")
        object.__setattr__(self, "layers", tuple(self.layers))

    def __call__(self, model: nn.Module) -> None:
        """Replace the layers of ``model`` in place."""
        linear = linear_layers(model)
        names = match(linear, dict.fromkeys(self.layers, True), "Drop")
        for name in names:
            layer = linear[name]
            if layer.in_features != layer.out_features:
                raise InputValueError(
                    f"Drop: layer {name!r} maps {layer.in_features} to {layer.out_features} "
                    "features, so the identity cannot stand for it; name square layers only."
                )
        replace_layers(
            model, names, lambda _name, layer: nn.Identity().train(layer.training), carry=False
        )
