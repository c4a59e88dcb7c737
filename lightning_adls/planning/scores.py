"""What each layer loses by each format: a table that is kept in a file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.formats import NumberFormat
from lightning_adls.layers import ROLES, LayerFormats
from lightning_adls.planning.candidates import Candidates

Cell = tuple[str, str, str]
"""A layer, one of ``ROLES``, and the text of a format."""


@dataclass(frozen=True)
class Scores:
    """The loss that rounding one tensor of one layer is expected to cost, in nats as a rule.

    Args:
        values: By layer, role and format.
        method: How they were found; those of several methods are not put together.
        samples: How many samples each is a mean over.
        fingerprint: Of the weights and samples that they are of.
    """

    values: Mapping[Cell, float]
    method: str
    samples: int
    fingerprint: str

    def of(self, layer: str, formats: LayerFormats) -> float:
        """The sum over the tensors of a layer that ``formats`` rounds.

        Raises:
            InputValueError: If one of them has no score.
        """
        return self.table([layer], [formats])[0][0]

    def table(self, layers: Iterable[str], choices: Sequence[LayerFormats]) -> list[list[float]]:
        """What :meth:`of` gives, a row for each layer with a column for each choice.

        Raises:
            InputValueError: If there is no such score.
        """
        rounded = [_rounded_by(choice) for choice in choices]
        return [[self._sum(layer, tensors) for tensors in rounded] for layer in layers]

    def _sum(self, layer: str, tensors: Iterable[tuple[str, str]]) -> float:
        try:
            return sum(self.values[layer, role, text] for role, text in tensors)
        except KeyError as error:
            name, role, text = error.args[0]
            raise InputValueError(
                f"Scores: there is no score of the {role} of {name!r} in {text}; call sensitivity "
                "with that layer and format, and with known= these scores."
            ) from error

    def missing(self, layers: Iterable[str], candidates: Iterable[Candidates]) -> list[Cell]:
        """What would have to be computed to know all these candidates."""
        return [cell for cell in cells_of(layers, candidates) if cell not in self.values]

    def joined(self, others: Mapping[Cell, float]) -> "Scores":
        """These and others of the same method, weights and samples."""
        return Scores({**self.values, **others}, self.method, self.samples, self.fingerprint)

    def rows(self) -> list[dict[str, str | float]]:
        """A row each: ``layer``, ``role``, ``format``, its ``bits`` per element and ``score``."""
        return [
            {
                "layer": layer,
                "role": role,
                "format": text,
                "bits": NumberFormat.parse(text).bits,
                "score": value,
            }
            for (layer, role, text), value in self.values.items()
        ]

    def by_format(self, role: str = "weight") -> dict[str, dict[str, float]]:
        """Of one role, by layer and format: what ``figures.draw_heat_map`` takes."""
        table: dict[str, dict[str, float]] = {}
        for (layer, of, text), value in self.values.items():
            if of == role:
                table.setdefault(layer, {})[text] = value
        return table

    def save(self, path: str | Path) -> None:
        """Write the scores as JSON, replacing an older file in one step."""
        content = {
            "method": self.method,
            "samples": self.samples,
            "fingerprint": self.fingerprint,
            "scores": [[*cell, value] for cell, value in self.values.items()],
        }
        part = Path(f"{path}.part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what :meth:`save` wrote; the numbers are the same, bit for bit.

        Raises:
            FileNotFoundError: If there is no such file.
            InputValueError: If it is something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            values = {
                (str(layer), str(role), str(text)): float(value)
                for layer, role, text, value in content["scores"]
            }
            found = cls(
                values, str(content["method"]), int(content["samples"]), content["fingerprint"]
            )
        except FileNotFoundError as error:
            raise MissingFileError(f"Scores: there is no file {str(path)!r}.") from error
        except OSError as error:
            raise InputValueError(
                f"Scores: {str(path)!r} cannot be read: {error.strerror}."
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise InputValueError(
                f"Scores: {str(path)!r} is not what Scores.save wrote; compute them again."
            ) from error
        if not all(map(isfinite, values.values())):
            raise InputValueError(f"Scores: {str(path)!r} has a score that is not finite.")
        return found


def cells_of(layers: Iterable[str], candidates: Iterable[Candidates]) -> list[Cell]:
    """What is rounded by some candidates in some layers, each once."""
    rounded = dict.fromkeys(
        tensor
        for each in candidates
        for role in ROLES
        for choice in each.alone(role)
        for tensor in _rounded_by(choice)
    )
    return [(layer, role, text) for layer in layers for role, text in rounded]


def _rounded_by(choice: LayerFormats) -> list[tuple[str, str]]:
    """Roles and texts of the formats of a choice."""
    formats = ((role, getattr(choice, role)) for role in ROLES)
    return [(role, str(fmt)) for role, fmt in formats if fmt is not None]


def check_known(known: Scores | None, method: str, samples: int, mark: str, who: str) -> Scores:
    """The known scores, if they are of the same things; none of them at first.

    Raises:
        InputValueError: If they are of other weights or samples, or found in another way.
    """
    none = Scores({}, method, samples, mark)
    if known is None:
        return none
    if known.method != method:
        raise InputValueError(
            f"{who}: known has scores by {known.method!r}, which are not those by {method!r}; "
            "keep a file for each."
        )
    if known.fingerprint != mark:
        raise InputValueError(
            f"{who}: known is of other weights or batches; leave it out to compute all anew."
        )
    return known
