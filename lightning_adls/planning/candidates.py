"""What each layer may be given: formats for all its tensors at once, or for each of them freely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_adls.errors import InputValueError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import ROLES, LayerFormats
from lightning_adls.transforms.quantize import FormatText, LayerChoice, layer_formats

# A layer's choice as in a recipe, or with lists of which each tensor is given one.
FreeChoice = LayerChoice | Mapping[str, FormatText | Sequence[FormatText]]


@dataclass(frozen=True)
class Candidates:
    """Formats for the tensors of a layer; each tensor may be given any one of its own.

    Args:
        input: At least one; None is full precision.
        weight: The same.
        bias: The same.
    """

    input: tuple[NumberFormat | None, ...]
    weight: tuple[NumberFormat | None, ...]
    bias: tuple[NumberFormat | None, ...]

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return all(len(getattr(self, role)) == 1 for role in ROLES)

    @property
    def first(self) -> LayerFormats:
        """The first of each."""
        return LayerFormats(self.input[0], self.weight[0], self.bias[0])

    def alone(self, role: str) -> list[LayerFormats]:
        """Each format of one tensor, with the others in full precision."""
        return [LayerFormats(**{role: fmt}) for fmt in getattr(self, role)]


def read_candidates(formats: Sequence[FreeChoice], who: str) -> tuple[Candidates, ...]:
    """Candidates from what a recipe may hold for a layer, or lists of it; each once.

    Args:
        formats: Such as ``"MXInt(width=4)"`` for all three tensors, or a mapping from ``input``,
            ``weight`` and ``bias`` to a format or a list of formats.
        who: Begins the error messages.

    Raises:
        InputValueError: If there are none, or one is no format.
    """
    if isinstance(formats, str | Mapping) or not formats:
        raise InputValueError(
            f"{who}: formats={formats!r} is not a list of what a layer may be given; write "
            "[{'weight': 'MXInt(width=4)'}, {'weight': 'MXInt(width=8)'}]."
        )
    return tuple(dict.fromkeys(_read(choice, who) for choice in formats))


def _read(choice: FreeChoice, who: str) -> Candidates:
    if not isinstance(choice, Mapping):
        return _fixed(layer_formats(choice, who))
    each = {role: _listed(value) for role, value in choice.items()}
    if empty := [role for role, values in each.items() if not values]:
        raise InputValueError(f"{who}: {empty[0]!r} has no format; None is full precision.")
    # Names are checked with the first of each.
    first = _fixed(layer_formats({role: values[0] for role, values in each.items()}, who))
    found = {
        role: tuple(
            dict.fromkeys(getattr(layer_formats({role: value}, who), role) for value in values)
        )
        for role, values in each.items()
    }
    return Candidates(**{**vars(first), **found})


def _listed(value: FormatText | Sequence[FormatText]) -> list[FormatText]:
    if value is None or isinstance(value, str | NumberFormat):
        return [value]
    return list(value)


def _fixed(choice: LayerFormats) -> Candidates:
    return Candidates((choice.input,), (choice.weight,), (choice.bias,))
