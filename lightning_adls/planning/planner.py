"""The plan: a format for each group of layers, of least predicted loss within a budget of bits."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import product, starmap
from math import inf

from torch import nn

from lightning_adls.errors import InputValueError, NoMatchError
from lightning_adls.layers import COMPUTING, ROLES, LayerFormats, QuantizedLayer
from lightning_adls.planning.candidates import Candidates, FreeChoice, read_candidates
from lightning_adls.planning.knapsack import choose
from lightning_adls.planning.samples import unrounded
from lightning_adls.planning.scores import Scores
from lightning_adls.planning.storage import UNITS, Storage
from lightning_adls.transforms.multiplied import refuse_lazy
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.walk import layers_of, match

Group = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A recipe, and what it is expected to cost.

    Args:
        recipe: An entry for each layer, also for those that stay in full precision.
        predicted: The sum of the scores.
        unit: ``bits_per_weight`` or ``size_mb``, as :func:`lightning_adls.transforms.costs` counts.
        cost: Of the quantised model, in that unit.
        groups: Layers that share their formats.
        choices: By group, what was weighed: of formats that tensors are free to be given, those
            that another one does not beat in bits and score.
    """

    recipe: Quantize
    predicted: float
    unit: str
    cost: float
    groups: tuple[Group, ...]
    choices: tuple[tuple[LayerFormats, ...], ...]

    def __str__(self) -> str:
        return f"predicted loss {self.predicted:.3g} with {self.unit}={self.cost:.4g}"


def plan(
    model: nn.Module,
    scores: Scores,
    formats: Sequence[FreeChoice],
    *,
    bits_per_weight: float | None = None,
    size_mb: float | None = None,
    groups: Sequence[Sequence[str]] = (),
    keep: Sequence[str] = (),
    kinds: Sequence[str] = COMPUTING,
) -> Plan:
    """Give each group of layers one of the formats, exactly minimising the sum of scores.

    Nothing is run: every other budget takes the same scores. Costs are those of
    :func:`lightning_adls.transforms.costs`, shared scales and whatever is not planned included.
    Layers that share a weight share their formats. Rounding inputs costs no bits.

    Args:
        model: Left as it was.
        scores: Of its layers, from :func:`sensitivity` or :func:`measured_sensitivity`.
        formats: What a layer may be given, as in a recipe; None is full precision, which scores 0.
            A mapping may hold lists, of which each tensor is free to be given one.
        bits_per_weight: Most bits per weight that is multiplied with, above 0; or
        size_mb: most storage of the whole model in 10^6 bytes, above 0.
        groups: Lists of names, in which ``*`` stands for any text and ``?`` for a letter. Layers
            that match one of a list, with the same text for these, are given the same:
            ``["*.query", "*.key", "*.value"]`` is one group in each attention, and a list of whole
            names is one group.
        keep: Shell patterns of layers that stay in full precision.
        kinds: Of layers, of ``lightning_adls.layers.KINDS``.

    Raises:
        InputValueError: If no choice fits the budget, a score is missing, a pattern matches
            nothing, a layer is in two groups, or there is no budget or nothing to plan.

    Example:
        >>> import torch
        >>> from lightning_adls.planning import sensitivity
        >>> model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), torch.ones(1, 8)
        >>> formats = [{"weight": f"Integer(width={width}, frac_width=2)"} for width in (3, 5)]
        >>> scores = sensitivity(model, [x], formats, loss=lambda model, x: model(x).sum())
        >>> plan(model, scores, formats, bits_per_weight=3).cost
        3.0
    """
    candidates = read_candidates(formats, "plan")
    unit, budget = _budget(bits_per_weight, size_mb)
    refuse_lazy(model, "plan")
    names = list(layers_of(model, kinds))
    kept = set(match(names, dict.fromkeys(keep), "plan"))
    grouped = _grouped(names, groups)
    if not names or kept == set(names):
        raise InputValueError("plan: model has no layer to plan; change keep or kinds.")
    rounds = any(isinstance(model.get_submodule(name), QuantizedLayer) for name in names)
    bare = unrounded(model, tuple(kinds)) if rounds else model  # to copy takes the longest
    storage = Storage(bare, names, unit)
    joined = _joined(grouped, storage.tied)
    if any(kept & tied and not tied <= kept for tied in storage.tied):
        raise InputValueError(
            f"plan: keep={list(keep)} names one of several layers that share a weight; name all of "
            "them or none."
        )
    planned = [left for group in joined if (left := tuple(n for n in group if n not in kept))]
    weighing = _Weighing(storage, scores)
    if all(each.fixed for each in candidates):
        common = tuple(each.first for each in candidates)
        choices = (common,) * len(planned)
        weighed = weighing.of(planned, common)
    else:
        choices = tuple(_undominated(weighing, group, candidates) for group in planned)
        weighed = [weighing.of([g], c)[0] for g, c in zip(planned, choices, strict=True)]
    costs, losses = [each[0] for each in weighed], [each[1] for each in weighed]
    fixed = storage.fixed + sum(sum(b) for b in storage.bits(kept, [LayerFormats()]).values())
    least = fixed + sum(map(min, costs))
    if least > storage.limit(budget):
        raise InputValueError(
            f"plan: {unit}={budget} is below {storage.value(least):.6g}, the least that these "
            "formats and groups can have; allow that, add smaller formats or keep less."
        )
    chosen = choose(costs, losses, storage.limit(budget) - fixed)
    given = dict.fromkeys(names, LayerFormats())
    for group, options, at in zip(planned, choices, chosen, strict=True):
        given.update(dict.fromkeys(group, options[at]))
    total = fixed + sum(options[at] for options, at in zip(costs, chosen, strict=True))
    return Plan(
        recipe=Quantize({escape(name): choice for name, choice in given.items()}, kinds),
        predicted=sum(options[at] for options, at in zip(losses, chosen, strict=True)),
        unit=unit,
        cost=storage.value(total),
        groups=tuple(planned),
        choices=choices,
    )


class _Weighing:
    """Bits and scores of groups of layers."""

    def __init__(self, storage: Storage, scores: Scores) -> None:
        self._storage, self._scores = storage, scores

    def of(
        self, groups: Sequence[Group], choices: Sequence[LayerFormats]
    ) -> list[tuple[list[int], list[float]]]:
        """What each choice adds, to all layers of a group together, for each group."""
        names = [name for group in groups for name in group]
        bits = self._storage.bits(names, choices)
        score = dict(zip(names, self._scores.table(names, choices), strict=True))
        return [
            (
                [sum(c) for c in zip(*(bits[n] for n in group), strict=True)],
                [sum(c) for c in zip(*(score[n] for n in group), strict=True)],
            )
            for group in groups
        ]


def _undominated(
    weighing: _Weighing, group: Group, candidates: Sequence[Candidates]
) -> tuple[LayerFormats, ...]:
    """All choices of a group but those in which another format of a tensor is no worse.

    Bits and scores of a choice are the sums of those of its tensors, so each is looked at alone.
    """
    found: list[LayerFormats] = []
    for each in candidates:
        kept = []
        for role in ROLES:
            alone = each.alone(role)
            ((bits, scores),) = weighing.of([group], alone)
            least, formats = inf, []
            for _, score, place in sorted(zip(bits, scores, range(len(alone)), strict=True)):
                if score < least:
                    least = score
                    formats.append(getattr(alone[place], role))
            kept.append(formats)
        found += starmap(LayerFormats, product(*kept))
    return tuple(dict.fromkeys(found))


def _budget(*given: float | None) -> tuple[str, float]:
    budgets = [(unit, x) for unit, x in zip(UNITS, given, strict=True) if x is not None]
    if len(budgets) != 1:
        raise InputValueError("plan: give one budget, either bits_per_weight or size_mb.")
    unit, budget = budgets[0]
    if not 0 < budget < inf:
        raise InputValueError(f"plan: {unit}={budget} is not a number above 0.")
    return unit, budget


def _grouped(names: Sequence[str], groups: Sequence[Sequence[str]]) -> list[Group]:
    """All layers, those of a group together, in the order of the first of each."""
    place: dict[str, tuple[object, ...]] = {}
    for at, patterns in enumerate(groups):
        if isinstance(patterns, str):
            raise InputValueError(
                f"plan: groups has {patterns!r}, which is not a list; write [[{patterns!r}, ...]]."
            )
        for pattern in patterns:
            found = {name: texts for name in names if (texts := _texts(pattern, name)) is not None}
            if not found:
                raise NoMatchError(
                    f"plan: {pattern!r} of groups matches none of the {len(names)} layers; there "
                    f"are {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}."
                )
            for name, texts in found.items():
                if place.setdefault(name, (at, *texts)) != (at, *texts):
                    raise InputValueError(
                        f"plan: {name!r} is in two groups; let one pattern of groups match it."
                    )
    members: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        members.setdefault(place.get(name, (name,)), []).append(name)
    return [tuple(group) for group in members.values()]


def _texts(pattern: str, name: str) -> tuple[str, ...] | None:
    """What stands in a name for each ``*`` and ``?`` of a pattern; None if it does not match."""
    found = re.fullmatch(re.escape(pattern).replace(r"\*", "(.*)").replace(r"\?", "(.)"), name)
    return None if found is None else found.groups()


def _joined(groups: Iterable[Group], tied: Iterable[set[str]]) -> list[Group]:
    """Groups with those put together whose layers share a weight."""
    joined = list(groups)
    for names in tied:
        together = [group for group in joined if names & set(group)]
        if len(together) > 1:
            place = joined.index(together[0])
            joined = [group for group in joined if group not in together]
            joined.insert(place, tuple(name for group in together for name in group))
    return joined
