"""What rounding really does, measured by running the rounded model: slow, and the reference."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from math import sqrt
from statistics import fmean, stdev
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_adls.errors import InputValueError
from lightning_adls.layers import COMPUTING
from lightning_adls.planning.candidates import FreeChoice, read_candidates
from lightning_adls.planning.first_order import Loss, default_loss
from lightning_adls.planning.samples import (
    Split,
    fingerprint,
    rows_of,
    same_random_numbers,
    samples_of,
    unrounded,
)
from lightning_adls.planning.scores import Cell, Scores, check_known
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import layers_of, match


@dataclass(frozen=True)
class Measure:
    """How a rounded model differs from the plain one, on one sample.

    Args:
        name: Of what is measured.
        evaluate: What a model says of a sample.
        compare: The difference, of what the plain and the rounded model say.
    """

    name: str
    evaluate: Callable[[nn.Module, Any], Tensor]
    compare: Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Measured:
    """A mean over samples; the standard error is that of the mean, NaN for one sample."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} +- {self.standard_error:.1g}"


def divergence(outputs: Callable[[nn.Module, Any], Tensor] | None = None) -> Measure:
    """KL divergence of the rounded model's classes from the plain one's, in nats.

    Args:
        outputs: Of a module and a sample: logits, ``(..., classes)``. By default
            ``model.logits(batch)``, which :class:`lightning_adls.TextClassifier` has. The mean is
            taken over all but the last dimension.
    """
    return Measure("divergence", outputs or _outputs, _divergence)


def loss_increase(loss: Loss | None = None) -> Measure:
    """By how much the loss rises; ``loss`` as in :func:`sensitivity`."""

    def evaluate(model: nn.Module, sample: Any) -> Tensor:
        return (loss or default_loss(model, "loss_increase"))(model, sample)

    return Measure("loss increase", evaluate, lambda plain, rounded: float(rounded - plain))


def measured(
    model: nn.Module,
    recipes: Sequence[Quantize],
    batches: Iterable[Any],
    measure: Measure | None = None,
    split: Split = rows_of,
) -> list[Measured]:
    """Measure what each recipe does to a model, in eval mode.

    Args:
        model: Left as it was. Layers of the kinds of the recipes are unrounded at first.
        recipes: At least one, all of the same kinds.
        batches: On the device of the model.
        measure: By default :func:`divergence`.
        split: As in :func:`sensitivity`.

    Raises:
        InputValueError: If there are no recipes or samples, or what is measured is not finite.
    """
    if not recipes or len({recipe.kinds for recipe in recipes}) > 1:
        raise InputValueError("measured: recipes is empty or of several kinds; give those of one.")
    samples = samples_of(batches, split, "measured")
    kinds = tuple(recipes[0].kinds)
    with _evaluating(model):
        reference = _said(unrounded(model, kinds), samples, measure or divergence())
        return [reference(recipe) for recipe in recipes]


def measured_sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    formats: Sequence[FreeChoice],
    *,
    measure: Measure | None = None,
    layers: Sequence[str] = ("*",),
    kinds: Sequence[str] = COMPUTING,
    split: Split = rows_of,
    known: Scores | None = None,
) -> Scores:
    """Score each tensor of each layer in each format by rounding it alone, and running the model.

    The reference for :func:`sensitivity`, whose arguments it takes: it runs the model once for each
    score and sample.

    Args:
        model: As in :func:`sensitivity`, as are all but ``measure``.
        batches: As there.
        formats: As there.
        measure: By default :func:`divergence`.
        layers: As there.
        kinds: As there.
        split: As there.
        known: As there.

    Raises:
        InputValueError: As there.
    """
    who, measure = "measured_sensitivity", measure or divergence()
    candidates = read_candidates(formats, who)
    names = list(match(layers_of(model, kinds), dict.fromkeys(layers), who))
    samples = samples_of(batches, split, who)
    mark = fingerprint(model, samples)
    known = check_known(known, measure.name, len(samples), mark, who)
    found: dict[Cell, float] = {}
    if missing := known.missing(names, candidates):
        with _evaluating(model):
            reference = _said(unrounded(model, tuple(kinds)), samples, measure)
            for cell in missing:
                name, role, text = cell
                found[cell] = reference(Quantize({escape(name): {role: text}}, kinds)).mean
    return known.joined(found)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    with same_random_numbers(model), torch.no_grad():
        yield


def _said(
    plain: nn.Module, samples: Sequence[Any], measure: Measure
) -> Callable[[Quantize], Measured]:
    """What compares a rounded model with ``plain``, which is run here, once."""
    expected = [measure.evaluate(plain, sample) for sample in samples]

    def compared(recipe: Quantize) -> Measured:
        rounded = unrounded(plain, tuple(recipe.kinds))
        recipe(rounded)
        found = [
            measure.compare(before, measure.evaluate(rounded, sample))
            for before, sample in zip(expected, samples, strict=True)
        ]
        error = stdev(found) / sqrt(len(found)) if len(found) > 1 else float("nan")
        return Measured(fmean(found), error)

    return compared


def _outputs(model: nn.Module, sample: Any) -> Tensor:
    if not callable(getattr(model, "logits", None)):
        raise InputValueError(
            f"divergence: outputs=None, but {type(model).__name__} has no method logits(batch); "
            "give a function of a module and a batch."
        )
    found: Tensor = cast(Any, model).logits(sample)
    return found


def _divergence(plain: Tensor, rounded: Tensor) -> float:
    p, q = (logits.double().log_softmax(-1) for logits in (plain, rounded))
    return float(functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).mean())
