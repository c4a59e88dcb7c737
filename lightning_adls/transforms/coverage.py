"""What each weight of a model is rounded to, or why it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lightning_adls.transforms.cost import stored_bits
from lightning_adls.transforms.multiplied import Role, Use, shortened, weights_of
from lightning_adls.transforms.products import Products, products_of


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


def coverage(model: nn.Module, run: Callable[[], Any] | None = None) -> list[CoveredWeight]:
    """What each weight that is multiplied with is rounded to, or why it is not.

    Embeddings, which look up, are left out where nothing rounds them or multiplies with their
    weight. Without ``run`` the modules are read and no more; see
    :func:`lightning_adls.transforms.multiplied.weights_of` for what they tell and what they do not.
    A run also tells of what is read past its layer, ``F.linear(x, self.layer.weight)``, and
    whether a parameter of no layer is multiplied with; what it does not come to stays as read.

    Args:
        model: Not changed, but by ``run``.
        run: Calls the model on a batch, in the mode that is asked about: ``lambda: model(batch)``.
            In train mode that may fit learned scales and the like, as any call does.

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
    seen = None if run is None else products_of(model, run)
    rows = []
    for uses in weights_of(model):
        row = _covered(uses)
        if seen is not None:
            row = _as_seen(row, uses, seen)
        # Of what is not multiplied with all but plain embeddings: they are known to be none.
        lookup = all(use.role is Role.LOOKED_UP and use.format is None for use in uses)
        if row.multiplied or not lookup:
            rows.append(row)
    return rows


def _as_seen(row: CoveredWeight, uses: Sequence[Use], seen: Products) -> CoveredWeight:
    parameter = id(uses[0].tensor)
    if all(use.role in (Role.UNKNOWN, Role.ADDED) for use in uses):
        multiplied = any(parameter in sources for sources in seen.elements)
        done = "multiplied with" if multiplied else "not multiplied with"
        return replace(row, reason=f"a parameter of {row.owner}, {done}", multiplied=multiplied)
    if parameter in seen.read and (row.format is not None or not row.multiplied):
        reason = f"read past {shortened(use.label for use in uses)}"
        bits = float(uses[0].bits_each)
        return replace(row, format=None, bits=bits, reason=reason, multiplied=True)
    return row


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
    if in_full := [use.label for use in uses if use.role is Role.LOOKED_UP and use.format is None]:
        return f"looked up in full by {shortened(in_full)}"
    return None if rounded else "shaped as what is added to a batch"
