"""Architectures of BERT to choose from: depth, heads, widths, and layers that are left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

from optuna.trial import BaseTrial
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.search.space import check_grid
from lightning_adls.transforms.drop import Drop

LINEAR, IDENTITY = "linear", "identity"


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a BERT, and its linear layers that the identity stands for.

    Args:
        num_hidden_layers: Encoder layers.
        num_attention_heads: A divisor of ``hidden_size``.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        identities: Names of square linear layers, as :func:`square_layers` gives them.

    Example:
        >>> from functools import partial
        >>> from lightning_adls.models import bert
        >>> architecture = Architecture(1, 2, 16, 32, ("bert.pooler.dense",))
        >>> model = architecture.build(partial(bert, vocab_size=50))
        >>> model.bert.pooler.dense
        Identity()
    """

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    intermediate_size: int
    identities: tuple[str, ...] = ()

    @property
    def dimensions(self) -> dict[str, int]:
        """The dimensions under the names that :func:`lightning_adls.models.bert` has for them."""
        return {name: value for name, value in asdict(self).items() if name != "identities"}

    def build(self, make: Callable[..., nn.Module]) -> nn.Module:
        """A model of this architecture; ``make`` builds a BERT from the four dimensions."""
        model = make(**self.dimensions)
        if self.identities:
            Drop(self.identities)(model)
        return model

    def to_dict(self) -> dict[str, Any]:
        """The fields, in values that JSON can hold."""
        return {**self.dimensions, "identities": list(self.identities)}


def square_layers(num_hidden_layers: int, hidden_size: int, intermediate_size: int) -> list[str]:
    """Names of the linear layers of a BERT classifier that the identity could stand for.

    The classifier head is not among them: its outputs are the classes.

    Example:
        >>> len(square_layers(2, hidden_size=8, intermediate_size=16))
        9
    """
    within = ["attention.self.query", "attention.self.key", "attention.self.value"]
    within.append("attention.output.dense")
    if intermediate_size == hidden_size:
        within += ["intermediate.dense", "output.dense"]
    layers = range(num_hidden_layers)
    return [f"bert.encoder.layer.{n}.{name}" for n in layers for name in within] + [
        "bert.pooler.dense"
    ]


@dataclass(frozen=True)
class ArchitectureSpace:
    """All architectures whose dimensions are among some values.

    Args:
        num_hidden_layers: Values to choose among, each 1 or more; so with the other dimensions.
        num_attention_heads: Each divides every ``hidden_size``.
        hidden_size: Widths of the residual stream.
        intermediate_size: Widths of the feed-forward layers.
        identities: ``search`` chooses for each square linear layer of each encoder layer, and for
            the pooler, whether the identity stands for it; ``keep`` leaves them all in place.

    Raises:
        ValueError: If there is nothing to choose among, a value comes twice or is below 1, or a
            hidden size is no multiple of a number of heads.
    """

    num_hidden_layers: Sequence[int]
    num_attention_heads: Sequence[int]
    hidden_size: Sequence[int]
    intermediate_size: Sequence[int]
    identities: Literal["search", "keep"] = "keep"

    def __post_init__(self) -> None:
        if self.identities not in ("search", "keep"):
            raise InputValueError(
                f"ArchitectureSpace: identities={self.identities!r} is neither 'search' nor 'keep'."
            )
        for name, values in self._dimensions().items():
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise InputValueError(
                    f"ArchitectureSpace: {name}={list(values)} is no list of different whole "
                    "numbers above 0."
                )
        for hidden, heads in product(self.hidden_size, self.num_attention_heads):
            if hidden % heads:
                raise InputValueError(
                    f"ArchitectureSpace: hidden_size={hidden} is no multiple of "
                    f"num_attention_heads={heads}; leave out one of the two."
                )

    def _dimensions(self) -> dict[str, Sequence[int]]:
        return {
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
        }

    def suggest(self, trial: BaseTrial) -> Architecture:
        """Let ``trial`` choose an architecture."""
        chosen = {
            name: trial.suggest_categorical(name, tuple(values))
            for name, values in self._dimensions().items()
        }
        # Which layers there are depends on the dimensions: these parameters are conditional.
        identities = tuple(
            name
            for name in self._optional(chosen)
            if trial.suggest_categorical(name, (LINEAR, IDENTITY)) == IDENTITY
        )
        return Architecture(**chosen, identities=identities)

    def _optional(self, chosen: Mapping[str, int]) -> list[str]:
        if self.identities == "keep":
            return []
        widths = chosen["hidden_size"], chosen["intermediate_size"]
        return square_layers(chosen["num_hidden_layers"], *widths)

    def overview(
        self, params: Mapping[str, Any], choice: Mapping[str, Any]
    ) -> dict[str, str | float]:
        """The dimensions that are searched, and how many layers the identity stands for."""
        found = {n: choice[n] for n, values in self._dimensions().items() if len(values) > 1}
        if self.identities == "search":
            found["identities"] = len(choice["identities"])
        return found

    def read(self, stored: Mapping[str, Any]) -> Architecture:
        """The architecture that :meth:`Architecture.to_dict` gave."""
        return Architecture(**{**stored, "identities": tuple(stored["identities"])})

    @property
    def points(self) -> int:
        """How many different architectures there are."""
        return sum(2 ** len(self._optional(chosen)) for chosen in self._combinations())

    def _combinations(self) -> Iterator[dict[str, int]]:
        dimensions = self._dimensions()
        for values in product(*dimensions.values()):
            yield dict(zip(dimensions, values, strict=True))

    def grid(self) -> dict[str, list[int]]:
        """The dimensions, as Optuna's GridSampler takes them.

        Raises:
            ValueError: If identities are searched, or there are more than 10^5 points.
        """
        if self.identities == "search":
            raise InputValueError(
                "ArchitectureSpace: sampler='grid' cannot enumerate identities='search', where the "
                "layers depend on the dimensions; set identities: keep, or use 'random' or 'tpe'."
            )
        check_grid("ArchitectureSpace", self.points, "give fewer values")
        return {name: list(values) for name, values in self._dimensions().items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything that can be chosen, for the fingerprint of a study."""
        dimensions = {name: list(values) for name, values in self._dimensions().items()}
        return {**dimensions, "identities": self.identities}
