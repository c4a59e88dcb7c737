"""Number formats to choose from, for the tensors of each layer: strings only.

Strings fit every sampler and every storage, and can be read in a dashboard; classes and tuples as
choices break both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from typing import Any

import optuna

from lightning_adls.formats import NumberFormat
from lightning_adls.formats.text import split_text
from lightning_adls.layers import ROLES
from lightning_adls.search.space import check_grid
from lightning_adls.transforms.quantize import Quantize

Value = int | float | str | None
NONE = "none"  # the text of "not quantised": a choice must be a string


def expand(template: str, ranges: Mapping[str, Sequence[Value]]) -> tuple[str, ...]:
    """All formats that a template stands for, as text.

    Args:
        template: A format, ``"Integer"`` or ``"Binary(scale=per_channel)"``. A parameter that it
            does not fix takes each value of its range, or its default where it has no range.
        ranges: Values by parameter (``width``), or for one format alone (``MXFP.width``), which
            takes precedence.

    Raises:
        ValueError: If the format or a parameter of it is not known, or no combination is valid.

    Example:
        >>> expand("Integer(frac_width=2)", {"width": [4, 8]})
        ('Integer(width=4, frac_width=2)', 'Integer(width=8, frac_width=2)')
    """
    fmt, given = split_text(template, NumberFormat.classes)
    searched = {
        field.name: values
        for field in fields(fmt)
        if field.name not in given
        and (values := ranges.get(f"{fmt.__name__}.{field.name}", ranges.get(field.name)))
    }
    found: dict[str, None] = {}
    error: ValueError | None = None
    for values in product(*searched.values()):
        try:
            chosen: dict[str, Any] = dict(zip(searched, values, strict=True))
            found[str(fmt(**given, **chosen))] = None
        except ValueError as refused:
            # A combination that cannot be, as 4 exponent bits in 4 bits, is no choice.
            error = refused
    if not found:
        raise ValueError(f"FormatSpace: no combination of the ranges makes a {template}: {error}")
    return tuple(found)


@dataclass(frozen=True)
class FormatSpace:
    """The choices of one study: a class for each layer, and a format for each tensor of it.

    Args:
        layers: Names of the layers, each with a choice of its own; ``("*",)`` makes one choice
            for all of them.
        classes: By the name of a class, the choices for ``input``, ``weight`` and ``bias``: texts
            of formats, or ``"none"``. One choice is fixed and not searched.
    """

    layers: tuple[str, ...]
    classes: Mapping[str, Mapping[str, tuple[str, ...]]]

    @classmethod
    def from_templates(
        cls,
        layers: Sequence[str],
        classes: Mapping[str, str | Mapping[str, str | None] | None],
        ranges: Mapping[str, Sequence[Value]],
    ) -> "FormatSpace":
        """Expand the templates of each class.

        Args:
            layers: As in :class:`FormatSpace`.
            classes: By class, one template for all three tensors, a mapping from ``input``,
                ``weight`` and ``bias`` to a template or None, or None for full precision.
            ranges: See :func:`expand`.

        Raises:
            ValueError: If a class has an unknown tensor, format or parameter, no combination of
                ranges is valid, or a range names no parameter of any format.
        """
        check_ranges(ranges)
        expanded = {}
        for name, template in classes.items():
            roles = template if isinstance(template, Mapping) else dict.fromkeys(ROLES, template)
            if unknown := set(roles) - set(ROLES):
                raise ValueError(
                    f"FormatSpace: {name!r} names {sorted(unknown)}; there are {ROLES}."
                )
            expanded[name] = {
                role: (NONE,) if roles.get(role) is None else expand(str(roles[role]), ranges)
                for role in ROLES
            }
        return cls(tuple(layers), expanded)

    def suggest(self, trial: optuna.Trial) -> Quantize:
        """Let ``trial`` choose a recipe."""
        recipe: dict[str, dict[str, str | None]] = {}
        for layer in self.layers:
            names = tuple(self.classes)
            name = names[0]
            if len(names) > 1:
                name = trial.suggest_categorical(f"{layer}.class", names)
            recipe[layer] = {role: self._suggest_format(trial, layer, name, role) for role in ROLES}
        return Quantize(recipe)

    def _suggest_format(self, trial: optuna.Trial, layer: str, name: str, role: str) -> str | None:
        choices = self.classes[name][role]
        text = choices[0]
        if len(choices) > 1:
            # Optuna's parameters are conditional, but the choices of one name must not change.
            key = f"{layer}.{role}" if len(self.classes) == 1 else f"{layer}.{role}.{name}"
            text = trial.suggest_categorical(key, choices)
        return None if text == NONE else text

    def read(self, stored: Mapping[str, Any]) -> Quantize:
        """The recipe that :meth:`Quantize.to_dict` gave."""
        return Quantize(stored)

    @property
    def points(self) -> int:
        """How many different recipes there are."""
        each: int = sum(prod(map(len, roles.values())) for roles in self.classes.values())
        return int(each ** len(self.layers))

    def grid(self) -> dict[str, list[str]]:
        """The space as Optuna's GridSampler takes it.

        Raises:
            ValueError: If some choice depends on another one, or there are more than 10^5 points.
        """
        if len(self.classes) > 1:
            raise ValueError(
                "FormatSpace: sampler='grid' cannot enumerate a study with "
                f"{len(self.classes)} classes, where the formats depend on the class; use 'random' "
                "or 'tpe'."
            )
        remedy = "narrow the ranges, make one choice for all layers (layers: '*')"
        check_grid("FormatSpace", self.points, remedy)
        (roles,) = self.classes.values()
        return {
            f"{layer}.{role}": list(choices)
            for layer in self.layers
            for role, choices in roles.items()
            if len(choices) > 1
        }

    def to_dict(self) -> dict[str, object]:
        """Everything that can be chosen, for the fingerprint of a study."""
        return {
            "layers": list(self.layers),
            "classes": {
                name: {role: list(choices) for role, choices in roles.items()}
                for name, roles in self.classes.items()
            },
        }


def check_ranges(ranges: Mapping[str, Sequence[Value]]) -> None:
    """Refuse a range that no format would ever use.

    Raises:
        ValueError: If a range is empty or its name is no parameter of a format.
    """
    for name, values in ranges.items():
        owner, _, parameter = name.rpartition(".")
        known = {
            field.name
            for fmt in NumberFormat.classes.values()
            if not owner or fmt.__name__ == owner
            for field in fields(fmt)
        }
        if parameter not in known:
            raise ValueError(
                f"FormatSpace: ranges: {name!r} is no parameter of {owner or 'any format'}; "
                f"there are {sorted(known) or sorted(NumberFormat.classes)}."
            )
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ValueError(f"FormatSpace: ranges: {name}={values!r} is not a list of values.")
