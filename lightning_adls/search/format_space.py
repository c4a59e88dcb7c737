"""Number formats to choose from, for the tensors of each layer: strings only.

Strings fit every sampler and every storage, and can be read in a dashboard; classes and tuples as
choices break both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any

from optuna.trial import BaseTrial
from torch import nn
from torch.nn.utils import skip_init

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import COMPUTING, ROLES, builder
from lightning_adls.search.columns import MOST_CHOICES
from lightning_adls.search.space import check_grid
from lightning_adls.search.templates import Value, check_ranges, expand
from lightning_adls.transforms.quantize import Quantize, layer_formats

NONE = "none"  # the text of "not quantised": a choice must be a string


@dataclass(frozen=True)
class FormatSpace:
    """The choices of one study: a class for each layer, and a format for each tensor of it.

    Args:
        layers: Names of the layers, each with a choice of its own; ``("*",)`` makes one choice
            for all of them.
        classes: By the name of a class, the choices for ``input``, ``weight`` and ``bias``: texts
            of formats, or ``"none"``. One choice is fixed and not searched.
        kinds: Which kinds of layers the names are about; see :class:`Quantize`.
    """

    layers: tuple[str, ...]
    classes: Mapping[str, Mapping[str, tuple[str, ...]]]
    kinds: tuple[str, ...] = COMPUTING

    @classmethod
    def from_templates(
        cls,
        layers: Sequence[str],
        classes: Mapping[str, str | Mapping[str, str | None] | None],
        ranges: Mapping[str, Sequence[Value]],
        kinds: Sequence[str] = COMPUTING,
    ) -> "FormatSpace":
        """Expand the templates of each class.

        Args:
            layers: As in :class:`FormatSpace`.
            classes: By class, one template for all three tensors, a mapping from ``input``,
                ``weight`` and ``bias`` to a template or None, or None for full precision.
            ranges: See :func:`expand`.
            kinds: As in :class:`FormatSpace`.

        Raises:
            ValueError: If a class has an unknown tensor, format or parameter, no combination of
                ranges is valid, or a range names no parameter of any format or has a value that
                none takes.
        """
        check_ranges(ranges)
        expanded = {}
        for name, template in classes.items():
            roles = template if isinstance(template, Mapping) else dict.fromkeys(ROLES, template)
            if unknown := set(roles) - set(ROLES):
                raise InputValueError(
                    f"FormatSpace: {name!r} names {sorted(unknown)}; there are {ROLES}."
                )
            expanded[name] = {
                role: (NONE,) if roles.get(role) is None else expand(str(roles[role]), ranges)
                for role in ROLES
            }
        return cls(tuple(layers), expanded, tuple(kinds))

    def check_backend(self, backend: str) -> None:
        """Refuse choices that ``backend`` has no layer for, before a trial meets them.

        Raises:
            ValueError: If there is such a choice, or no such backend.
            ImportError: If the backend needs a package that is not installed.
        """
        build = builder(backend)
        layer = skip_init(nn.Linear, 1, 1)  # draws no random numbers
        for name, roles in self.classes.items():
            first = {role: choices[0] for role, choices in roles.items()}
            for role, choices in roles.items():
                for choice in choices:
                    texts = {**first, role: choice}
                    formats = {r: None if text == NONE else text for r, text in texts.items()}
                    build(layer, layer_formats(formats, f"FormatSpace: {name!r}"))

    def suggest(self, trial: BaseTrial) -> Quantize:
        """Let ``trial`` choose a recipe."""
        recipe: dict[str, dict[str, str | None]] = {}
        for layer in self.layers:
            names = tuple(self.classes)
            name = names[0]
            if len(names) > 1:
                name = trial.suggest_categorical(f"{layer}.class", names)
            recipe[layer] = {role: self._suggest_format(trial, layer, name, role) for role in ROLES}
        return Quantize(recipe, self.kinds)

    def _suggest_format(self, trial: BaseTrial, layer: str, name: str, role: str) -> str | None:
        choices = self.classes[name][role]
        text = choices[0]
        if len(choices) > 1:
            text = trial.suggest_categorical(self._key(layer, name, role), choices)
        return None if text == NONE else text

    def params_of(self, recipe: Quantize) -> dict[str, str]:
        """The parameters of the trial that chooses a recipe: what :meth:`suggest` gives for it.

        Raises:
            InputValueError: If a layer has formats that cannot be chosen for it.
        """
        params: dict[str, str] = {}
        for layer in self.layers:
            texts = dict.fromkeys(ROLES, NONE) | {
                role: NONE if fmt is None else str(fmt)
                for role, fmt in vars(layer_formats(recipe.layers[layer])).items()
            }
            name = next(
                (
                    name
                    for name, roles in self.classes.items()
                    if all(texts[role] in roles[role] for role in ROLES)
                ),
                None,
            )
            if name is None:
                raise InputValueError(f"FormatSpace: {layer!r} cannot be given {texts}.")
            if len(self.classes) > 1:
                params[f"{layer}.class"] = name
            params |= {
                self._key(layer, name, role): texts[role]
                for role, choices in self.classes[name].items()
                if len(choices) > 1
            }
        return params

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "FormatSpace":
        """The space whose :meth:`to_dict` gave ``stored``."""
        classes = {
            name: {role: tuple(choices) for role, choices in roles.items()}
            for name, roles in stored["classes"].items()
        }
        return cls(tuple(stored["layers"]), classes)

    def _key(self, layer: str, name: str, role: str) -> str:
        # Optuna's parameters are conditional, but the choices of one name must not change.
        return f"{layer}.{role}" if len(self.classes) == 1 else f"{layer}.{role}.{name}"

    def overview(
        self, params: Mapping[str, Any], choice: Mapping[str, Any]
    ) -> dict[str, str | float] | None:
        """Of many layers: bits of each tensor, the mean over the layers, and shares of classes.

        Full precision counts as 32 bits. None where so little is chosen that it can be shown.
        """
        searched = [
            role
            for role in ROLES
            if len({text for roles in self.classes.values() for text in roles[role]}) > 1
        ]
        if len(self.layers) * (len(searched) + (len(self.classes) > 1)) <= MOST_CHOICES:
            return None
        found: dict[str, str | float] = {}
        for role in searched:
            # A layer in full precision has nothing for its roles.
            bits = [_bits((choice[layer] or {}).get(role)) for layer in self.layers]
            found[f"{role}_bits"] = round(fmean(bits), 2)
        if len(self.classes) > 1:
            chosen = [params[f"{layer}.class"] for layer in self.layers]
            for name in self.classes:
                found[f"share_{name}"] = round(chosen.count(name) / len(chosen), 3)
        return found

    def read(self, stored: Mapping[str, Any]) -> Quantize:
        """The recipe that :meth:`Quantize.to_dict` gave."""
        return Quantize(stored, self.kinds)

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
            raise InputValueError(
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
        content: dict[str, object] = {
            "layers": list(self.layers),
            "classes": {
                name: {role: list(choices) for role, choices in roles.items()}
                for name, roles in self.classes.items()
            },
        }
        return content if self.kinds == COMPUTING else content | {"kinds": list(self.kinds)}


def _bits(text: str | None) -> float:
    return 32.0 if text is None else NumberFormat.parse(text).bits
