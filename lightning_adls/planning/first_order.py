"""First-order scores: what rounding each tensor does to the loss, from one pass over the data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import COMPUTING, ROLES, LayerFormats, quantized, weight_of
from lightning_adls.planning.candidates import FreeChoice, read_candidates
from lightning_adls.planning.effects import Effects
from lightning_adls.planning.samples import (
    Split,
    fingerprint,
    rows_of,
    same_random_numbers,
    samples_of,
    unrounded,
)
from lightning_adls.planning.scores import Cell, Scores, check_known
from lightning_adls.transforms.walk import layers_of, match, replace_layers

Loss = Callable[[nn.Module, Any], Tensor]

# Numbers of weights' gradients that are kept at a time, 512 MiB of float32.
MOST_KEPT = 1 << 27
# Numbers of inputs and their gradients that wait to be rounded together, 32 MiB.
MOST_WAITING = 1 << 23


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    formats: Sequence[FreeChoice],
    *,
    loss: Loss | None = None,
    layers: Sequence[str] = ("*",),
    kinds: Sequence[str] = COMPUTING,
    split: Split = rows_of,
    known: Scores | None = None,
) -> Scores:
    r"""Score each tensor of each layer in each format, by one forward and backward per sample.

    The score of a tensor :math:`x` that a format rounds to :math:`q(x)` is

    .. math:: \tfrac12 \, \mathbb{E}_n \Big[ \big( \sum_i g_{n,i} (q(x_n)_i - x_{n,i}) \big)^2 \Big]

    with the gradient :math:`g_n` of the loss of sample :math:`n`: half the quadratic form of the
    empirical Fisher matrix in the rounding error. Where labels are as probable as the model says,
    this is to second order how much the loss rises, and the KL divergence of the rounded model's
    output from the plain one's (Amari 1998, "Natural gradient works efficiently in learning";
    HAWQ, Dong et al. 2019, ICCV, arXiv:1905.03696, has the Hessian in its place). Where the
    model fits no label, or all of them, it is not: see Kunstner et al. 2019, NeurIPS,
    arXiv:1905.12558.

    The square is of each sample by itself: of a mean over a batch, errors of opposite signs would
    cancel, and the score depend on the size of batches. So inputs are rounded sample by sample.
    Formats only replay what one pass has captured.

    Args:
        model: Any module, left as it was. Layers of ``kinds`` are taken unrounded, in eval mode.
        batches: A few batches, on the device of the model.
        formats: What a layer may be given, each as in a recipe; see
            :func:`lightning_adls.transforms.quantize.layer_formats`. A mapping may hold lists, of
            which each tensor is free to be given one.
        loss: Of the module that it is given, on a sample: a scalar. By default
            ``model.loss(batch)``, which :class:`lightning_adls.TextClassifier` has.
        layers: Shell patterns over their names.
        kinds: Of layers, of ``lightning_adls.layers.KINDS``.
        split: Makes a list of samples of a batch; by default :func:`rows_of`. With
            ``lambda batch: [batch]`` a batch is one sample.
        known: Scores of the same weights and samples, which are not computed again.

    Returns:
        The known scores and the new ones. Without bias, the score of the bias is 0; so is that of
        a layer on which the loss does not depend.

    Raises:
        InputValueError: If there are no samples or layers, a format is not known, ``known`` is of
            other weights or samples, or the loss is no finite scalar that can be differentiated.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 1, bias=False))
        >>> x = torch.eye(4)
        >>> loss = lambda model, batch: model(batch).sum()
        >>> scores = sensitivity(model, [x], [{"weight": "Integer(width=8)"}], loss=loss)
        >>> list(scores.values)
        [('0', 'weight', 'Integer(width=8, frac_width=4)')]
    """
    candidates = read_candidates(formats, "sensitivity")
    loss = loss or default_loss(model, "sensitivity")
    names = list(match(layers_of(model, kinds), dict.fromkeys(layers), "sensitivity"))
    samples = samples_of(batches, split, "sensitivity")
    mark = fingerprint(model, samples)
    known = check_known(known, "first-order", len(samples), mark, "sensitivity")
    wanted: dict[str, list[Cell]] = {}
    for cell in known.missing(names, candidates):
        wanted.setdefault(cell[0], []).append(cell)
    found: dict[Cell, float] = {}
    effects = Effects()
    with same_random_numbers(model), torch.inference_mode(False), torch.enable_grad():
        for part in _parts(model, wanted, len(samples)):
            found |= _scored(unrounded(model, tuple(kinds)), samples, loss, part, effects)
    return known.joined(found)


def default_loss(model: nn.Module, who: str) -> Loss:
    """The loss that a model has itself.

    Raises:
        InputValueError: If it has none.
    """
    if not callable(getattr(model, "loss", None)):
        raise InputValueError(
            f"{who}: loss=None, but {type(model).__name__} has no method loss(batch); give a "
            "function of a module and a batch."
        )
    return lambda module, batch: cast(Any, module).loss(batch)


def _parts(
    model: nn.Module, wanted: Mapping[str, list[Cell]], samples: int
) -> Iterable[dict[str, list[Cell]]]:
    """Layers that are scored in one pass: as many as the gradients of their weights allow."""
    part: dict[str, list[Cell]] = {}
    kept = 0
    for name, cells in wanted.items():
        size = weight_of(model.get_submodule(name)).numel() * samples
        if part and kept + size > MOST_KEPT:
            yield part
            part, kept = {}, 0
        part[name] = cells
        kept += size
    if part:
        yield part


@dataclass(frozen=True, eq=False)
class _Source:
    """A tensor as it is now; equal where several layers have the same input.

    It is held so that no other tensor takes its place in memory.
    """

    x: Tensor
    version: int

    @property
    def _mark(self) -> tuple[object, ...]:
        return self.x.data_ptr(), self.x.shape, self.x.stride(), self.x.dtype, self.version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source) and self._mark == other._mark

    def __hash__(self) -> int:
        return hash(self._mark)


@dataclass
class _Probe:
    """Stands where a layer has a format: rounds nothing and keeps what would be rounded.

    What passes is as the layer would give it to a format: features last, weights as rows.
    """

    role: str
    # Of each call what is differentiated, and what tells of an input which tensor it is.
    seen: list[tuple[Tensor, "_Source | None"]] = field(default_factory=list)
    rounds_at_random = False

    def initial_scales(self) -> None:
        """It learns none."""

    def __call__(
        self, x: Tensor, scales: None = None, *, training: bool = False, batched: bool = False
    ) -> Tensor:
        if not torch.is_grad_enabled():
            raise InputValueError(
                "sensitivity: the model computes a layer without gradients (torch.no_grad), so "
                "that its effect on the loss is not known; leave such layers out by layers=."
            )
        if self.role == "input" and x.requires_grad:
            y = x.clone()  # what comes after may change x in place
        else:
            y = (x.detach().clone() if self.role == "input" else x.detach()).requires_grad_()
        self.seen.append((y, _Source(x, x._version) if self.role == "input" else None))
        return y


def _scored(
    copy: nn.Module,
    samples: Sequence[Any],
    loss: Loss,
    wanted: Mapping[str, list[Cell]],
    rounding: Effects,
) -> dict[Cell, float]:
    probes = {(name, role): _Probe(role) for name in wanted for role in ROLES}
    replace_layers(copy, wanted, lambda name, layer: _probed(layer, name, probes))
    texts = {
        key: tuple(text for _, role, text in wanted[key[0]] if role == key[1]) for key in probes
    }
    waiting = _Waiting(rounding, len(samples))
    # Weights and biases are the same for all samples: they are rounded once, at the end.
    constant: dict[tuple[str, str], tuple[Tensor, list[Tensor]]] = {}
    reached = False
    for place, sample in enumerate(samples):
        copy.eval()  # forgets weights that layers keep
        for probe in probes.values():
            probe.seen.clear()
        value = loss(copy, sample)
        _check_loss(value, place)
        seen = [(key, *each) for key, probe in probes.items() for each in probe.seen]
        if not seen:
            continue
        reached = True
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            value, [x for _, x, _ in seen], allow_unused=True
        )
        inputs: dict[object, list[tuple[str, Tensor, Tensor]]] = {}
        for (key, x, source), grad in zip(seen, found, strict=True):
            if grad is None or not texts[key]:
                continue
            x = x.detach()
            if source is not None:
                inputs.setdefault((source, texts[key]), []).append((key[0], x, grad))
                continue
            kept = constant.setdefault(key, (x, []))[1]
            if len(kept) <= place:
                kept += [torch.zeros_like(grad)] * (place - len(kept)) + [grad]
            else:  # of a layer that is called again
                kept[place] = kept[place] + grad
        for alike in inputs.values():
            names = tuple(name for name, _, _ in alike)
            waiting.add(place, names, texts[names[0], "input"], alike[0][1], [g for *_, g in alike])
    if not reached:
        raise InputValueError(
            "sensitivity: loss reaches none of the layers; call the module that loss is given, "
            "which is a copy, and not another one."
        )
    effects = waiting.finished()
    for key, (x, kept) in constant.items():
        kept += [torch.zeros_like(x)] * (len(samples) - len(kept))
        effects[key] = rounding.of(x[None], torch.stack(kept)[None], _parsed(texts[key]))[0]
    scores = dict.fromkeys((cell for each in wanted.values() for cell in each), 0.0)
    for (name, role), of_samples in effects.items():
        each_format = (of_samples.square().sum(0) / (2 * len(samples))).tolist()
        for text, score in zip(texts[name, role], each_format, strict=True):
            scores[name, role, text] = score
    return scores


class _Waiting:
    """Inputs of several samples, to be rounded in few calls.

    Args:
        rounding: What rounds them.
        samples: Their number.
    """

    def __init__(self, rounding: Effects, samples: int) -> None:
        self._rounding = rounding
        self._samples = samples
        self._effects: dict[tuple[str, str], Tensor] = {}
        # By names of layers that have the input in common, formats, and what can be stacked.
        self._waiting: dict[tuple[Any, ...], list[tuple[int, Tensor, list[Tensor]]]] = {}
        self._elements = 0

    def add(
        self,
        place: int,
        names: tuple[str, ...],
        texts: tuple[str, ...],
        x: Tensor,
        grads: list[Tensor],
    ) -> None:
        """Take the input that some layers have in a sample, with the gradient of each layer."""
        key = (names, texts, x.shape, x.dtype)
        self._waiting.setdefault(key, []).append((place, x, grads))
        self._elements += x.numel() * (1 + len(grads))
        if self._elements >= MOST_WAITING:
            self._round()

    def finished(self) -> dict[tuple[str, str], Tensor]:
        """By layer and tensor, the effects in all samples, float64, ``(samples, formats)``."""
        self._round()
        return self._effects

    def _round(self) -> None:
        for (names, texts, *_), alike in self._waiting.items():
            places, x, grads = zip(*alike, strict=True)
            of_layers = torch.stack([torch.stack(each) for each in zip(*grads, strict=True)], 1)
            found = self._rounding.of(torch.stack(x), of_layers, _parsed(texts))
            where = torch.tensor(places, device=found.device)
            for name, effects in zip(names, found.unbind(1), strict=True):
                key = name, "input"
                if key not in self._effects:
                    self._effects[key] = effects.new_zeros(self._samples, len(texts))
                # A layer that is called twice in a sample has two inputs.
                self._effects[key].index_add_(0, where, effects)
        self._waiting.clear()
        self._elements = 0


@lru_cache(maxsize=256)
def _parsed(texts: tuple[str, ...]) -> tuple[NumberFormat, ...]:
    return tuple(map(NumberFormat.parse, texts))


def _probed(layer: nn.Module, name: str, probes: Mapping[tuple[str, str], _Probe]) -> nn.Module:
    # To the layer, they are formats.
    return quantized(layer, LayerFormats(*(cast(Any, probes[name, role]) for role in ROLES)))


def _check_loss(value: Any, place: int) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise InputValueError(
            "sensitivity: loss gave something else than a scalar that depends on the model; it is "
            "called with a module and a batch."
        )
    if not value.isfinite():
        raise InputValueError(
            f"sensitivity: the loss of sample {place} is {value.item()}; leave that sample out."
        )
