"""What each weight of a model is rounded to, or why it is not."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lightning_adls.transforms.cost import stored_bits
from lightning_adls.transforms.multiplied import Use, shortened, weights_of


@dataclass(frozen=True)
class CoveredWeight:
    """One weight of a model, in all its places.

    Args:
        names: Of the weight, one for each module that holds it.
        owner: Class of the first of these.
        elements: How many numbers the weight has; 0 if it has no size yet.
        format: Text of the format that it is rounded to, of several separated by "; "; None if it
            is multiplied with in full precision anywhere.
        bits: Of storage for each element, scales included.
        reason: Why it stays in full precision, in a few words; also of a place that only looks it
            up in full. None if it is rounded everywhere.
        multiplied: Whether it counts in :func:`lightning_adls.transforms.bits_per_weight`. False
            for embeddings, and for parameters with the shape of what is added to a batch.
    """

    names: tuple[str, ...]
    owner: str
    elements: int
    format: str | None
    bits: float
    reason: str | None
    multiplied: bool


def coverage(model: nn.Module) -> list[CoveredWeight]:
    """What each weight that is multiplied with is rounded to, or why it is not.

    Embeddings, which look up, are left out where nothing rounds them or multiplies with their
    weight. The modules are read and nothing is run; see
    :func:`lightning_adls.transforms.multiplied.weights_of` for what that tells and what it does
    not.

    Args:
        model: Not changed.

    Example:
        >>> from lightning_adls import Quantize
        >>> model = nn.Sequential(nn.Linear(32, 32), nn.LSTM(32, 32))
        >>> Quantize({"0": "Integer(width=8)"})(model)
        >>> for weight in coverage(model):
        ...     print(weight.names, weight.elements, weight.bits, weight.format or weight.reason)
        ('0.weight',) 1024 8.0 Integer(width=8, frac_width=4)
        ('1.weight_ih_l0',) 4096 32.0 LSTM is of no kind
        ('1.weight_hh_l0',) 4096 32.0 LSTM is of no kind
    """
    return [_covered(uses) for uses in weights_of(model) if any(map(_is_told, uses))]


def _is_told(use: Use) -> bool:
    # All but plain embeddings: what is added to a batch is no embedding, and told as such.
    return use.multiplied or use.format is not None or not use.looked_up


def _covered(uses: Sequence[Use]) -> CoveredWeight:
    computing = [use for use in uses if use.multiplied] or uses
    rounded = [use for use in computing if use.format is not None]
    texts = "; ".join(dict.fromkeys(str(use.format) for use in rounded))
    elements = uses[0].elements
    return CoveredWeight(
        names=tuple(dict.fromkeys(use.name for use in uses)),
        owner=type(uses[0].module).__name__,
        elements=elements,
        format=texts if len(rounded) == len(computing) else None,
        bits=stored_bits(computing) / elements if elements else uses[0].bits_each,
        reason=_reason(uses, rounded, texts),
        multiplied=any(use.multiplied for use in uses),
    )


def _reason(uses: Sequence[Use], rounded: Sequence[Use], texts: str) -> str | None:
    reasons = list(dict.fromkeys(use.reason for use in uses if use.multiplied and use.reason))
    if reasons and rounded:
        labels = shortened(use.label for use in rounded)
        return f"{'; '.join(reasons)}; but rounded to {texts} by {labels}"
    if reasons:
        return "; ".join(reasons)
    if in_full := [use.label for use in uses if use.looked_up and use.format is None]:
        return f"looked up in full by {shortened(in_full)}"
    return None if rounded else "shaped as what is added to a batch"
