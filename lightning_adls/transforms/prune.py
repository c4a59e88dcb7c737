"""Unstructured pruning: set single weights to zero, by a mask that stays while the model trains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from lightning_adls.errors import InputValueError
from lightning_adls.layers import COMPUTING, LayerFormats, QuantizedLayer, quantized, weight_of
from lightning_adls.transforms.walk import layers_of, match, replace_layers


@dataclass(frozen=True)
class Prune:
    """Set weights to zero by masks, which training, quantising and checkpoints keep.

    Exactly ``round(sparsity * count)`` weights are pruned, chosen among those that are not pruned
    yet: pruning again to a higher sparsity only adds zeros. Magnitudes are those of the
    full-precision weights. Masks save no storage and no time by themselves.

    Args:
        sparsity: Share of the weights that is zero afterwards, earlier zeros of the mask included:
            0 to below 1.
        method: ``l1`` prunes the smallest magnitudes, ``random`` any.
        scope: ``local`` reaches the sparsity in each layer, ``global`` in all of them together,
            ranking their weights in one list.
        layers: Shell patterns over module names (``*`` also matches dots); a layer is pruned if
            one of them matches.
        kinds: Which kinds of layers, of ``lightning_adls.layers.KINDS``; by default all but
            ``Embedding``.
        activation_sparsity: Share of each input's features that is zero from now on, 0 to below 1;
            0 leaves the layers' ``input_sparsity`` as it is. Embeddings, whose inputs are indices,
            have none.
        seed: Of ``random``, which draws one order of all matched weights from it: the same on any
            device, and in steps the same as at once. The global generator is left alone.

    Raises:
        ValueError: If an argument is out of range, or, when called, a pattern or a kind matches
            nothing or a layer is sparser already.

    Example:
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> Prune(0.75)(model)
        >>> [int((~layer.weight_mask).sum()) for layer in (model[0], model[2])]
        [384, 48]
    """

    sparsity: float
    method: Literal["l1", "random"] = "l1"
    scope: Literal["local", "global"] = "local"
    layers: Sequence[str] = ("*",)
    kinds: Sequence[str] = COMPUTING
    activation_sparsity: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sparsity", "activation_sparsity"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputValueError(f"Prune: {name}={value} is not in 0 <= {name} < 1.")
        for name, known in (("method", ("l1", "random")), ("scope", ("local", "global"))):
            if getattr(self, name) not in known:
                raise InputValueError(
                    f"Prune: {name}={getattr(self, name)!r} is neither {known[0]!r} nor "
                    f"{known[1]!r}."
                )
        for name in ("layers", "kinds"):
            value = getattr(self, name)
            if isinstance(value, str) or not value:
                raise InputValueError(f"Prune: {name}={value!r} is not a list of names.")
            object.__setattr__(self, name, tuple(value))

    def __call__(self, model: nn.Module) -> None:
        """Prune ``model`` in place."""
        self.check(model)
        self.prune_up_to(model)
        if self.activation_sparsity:
            for layer in self._matched(model).values():
                if not isinstance(layer, nn.Embedding):
                    cast(QuantizedLayer, layer).input_sparsity = self.activation_sparsity

    def check(self, model: nn.Module) -> None:
        """Refuse a model that is sparser already, without changing it.

        Raises:
            ValueError: If that is so, a pattern or a kind matches nothing, or a weight is on the
                meta device.
        """
        if empty := [n for n, layer in self._matched(model).items() if weight_of(layer).is_meta]:
            raise InputValueError(
                f"Prune: the weight of {empty[0]} is on the meta device, so there is nothing to "
                "rank; load the model before it is pruned."
            )
        for name, group in self._groups(model).items():
            pruned, count = sum(map(_pruned, group)), sum(map(_count, group))
            if pruned > round(self.sparsity * count):
                raise InputValueError(
                    f"Prune: sparsity={self.sparsity} is below the {pruned / count:.4g} that "
                    f"{name} has already; give at least that, or start from an unpruned model."
                )

    def is_reached(self, model: nn.Module) -> bool:
        """Whether ``model`` is as sparse, or sparser, so that nothing is left to prune."""
        return all(
            sum(map(_pruned, group)) >= round(self.sparsity * sum(map(_count, group)))
            for group in self._groups(model).values()
        )

    def sparsity_of(self, model: nn.Module) -> float:
        """Share of the weights of the matched layers that masks set to zero, 0 to 1."""
        layers = self._matched(model).values()
        return sum(map(_pruned, layers)) / sum(map(_count, layers))

    def prepare(self, model: nn.Module) -> list[QuantizedLayer]:
        """Swap the matched layers for ones that carry a mask, of ones where they have none.

        The parameters stay the same objects, so optimisers stay valid.

        Returns:
            The matched layers, in the order of ``named_modules``.
        """
        plain = [n for n, m in self._matched(model).items() if not isinstance(m, QuantizedLayer)]
        replace_layers(model, plain, lambda name, layer: quantized(layer, LayerFormats()))
        layers = [cast(QuantizedLayer, layer) for layer in self._matched(model).values()]
        for layer in layers:
            if layer.weight_mask is None:
                layer.weight_mask = torch.ones_like(weight_of(layer), dtype=torch.bool)
        return layers

    def prune_up_to(self, model: nn.Module) -> None:
        """Prune ``model`` in place, leaving what is sparser already as it is."""
        layers = self.prepare(model)
        scores = self._scores(layers)
        if self.scope == "global":
            _prune_together(layers, list(scores), self.sparsity)
        else:
            for layer, score in zip(layers, scores, strict=True):
                _prune_together([layer], [score], self.sparsity)

    def _groups(self, model: nn.Module) -> dict[str, list[nn.Module]]:
        """Layers that reach the sparsity together."""
        layers = self._matched(model)
        if self.scope == "global":
            return {"the model": list(layers.values())}
        return {name: [layer] for name, layer in layers.items()}

    def _matched(self, model: nn.Module) -> dict[str, nn.Module]:
        layers = layers_of(model, self.kinds)
        return {name: layers[name] for name in match(layers, dict.fromkeys(self.layers), "Prune")}

    def _scores(self, layers: Sequence[QuantizedLayer]) -> Iterator[Tensor]:
        """For each layer, scores in the shape of its weight; the smallest are pruned first."""
        generator = torch.Generator().manual_seed(self.seed)
        for layer in layers:
            if self.method == "l1":
                yield weight_of(layer).detach()
            else:  # in float64 there are no ties, whose order would depend on the device
                shape = weight_of(layer).shape
                yield torch.rand(shape, generator=generator, dtype=torch.float64)


def _prune_together(
    layers: Sequence[QuantizedLayer], scores: Sequence[Tensor], sparsity: float
) -> None:
    masks = [cast(Tensor, layer.weight_mask) for layer in layers]
    ranked = torch.cat([score.flatten() for score in scores])
    kept = torch.cat([mask.flatten() for mask in masks]).to(ranked.device)
    missing = round(sparsity * kept.numel()) - int((~kept).sum())
    if missing <= 0:
        return
    # Only among the weights that are left: pruned ones must neither count nor come back.
    left = ranked[kept]
    still_kept = L1Unstructured(missing).compute_mask(left, torch.ones_like(left, dtype=torch.bool))
    kept = kept.masked_scatter(kept, still_kept)
    for mask, new in zip(masks, kept.split([mask.numel() for mask in masks]), strict=True):
        # In place: DDP and compiled graphs hold on to the buffer that they have seen.
        mask.copy_(new.view_as(mask))


def _count(layer: nn.Module) -> int:
    return weight_of(layer).numel()


def _pruned(layer: nn.Module) -> int:
    # A plain layer's is torch's or the user's, and such a layer is refused when it is replaced.
    mask = layer.weight_mask if isinstance(layer, QuantizedLayer) else None
    return 0 if mask is None else int((~mask).sum())
