"""What the header of an exported file says in text: recipe, network, weights, facts."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from lightning_adls.errors import InputValueError
from lightning_adls.export.container import DTYPES, NAMES
from lightning_adls.formats import parse
from lightning_adls.formats.block_base import BlockFormat
from lightning_adls.formats.blocks import tile
from lightning_adls.kernels.coded_shapes import CodedShapes
from lightning_adls.layers import BACKENDS, KINDS, ROLES, LayerRecord

VERSION = "1"
_VERSION_KEY = "lightning_adls.export"
# What rows and columns are filled up to whole blocks, at most, as a multiple of the matrix.
_LARGEST_BLOCK = 256


@dataclass(frozen=True)
class WeightText:
    """A weight that is stored otherwise than as a tensor of its shape.

    Args:
        shape: Of the weight.
        dtype: Of its values, by the name of the container.
        format: Whose codes are stored, in text; None if the values are.
        rows: Rows and columns of the matrix that the layer sums over; the shape without a format.
        mask: What tells which elements a mask sets to zero: "none" (there is no mask), "zeros"
            (they are zeros themselves) or "bits" (a bit each; they are not stored).
        kept: How many elements are stored where there are such bits.
    """

    shape: tuple[int, ...]
    dtype: str
    format: str | None
    rows: tuple[int, ...]
    mask: str
    kept: int | None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not DTYPES[self.dtype].is_floating_point:
            raise InputValueError(f"dtype={self.dtype!r} is none of a weight")
        if not (_is_shape(self.shape) and _is_shape(self.rows)):
            raise InputValueError(f"shape={self.shape} and rows={self.rows} are none")
        if self.mask not in ("none", "zeros", "bits") or (self.kept is None) != (
            self.mask != "bits"
        ):
            raise InputValueError(f"mask={self.mask!r} does not fit kept={self.kept}")
        if self.kept is not None and not _is_size(self.kept):
            raise InputValueError(f"kept={self.kept} is no number of elements")
        if self.format is None and self.kept is None:
            raise InputValueError("a weight has neither a format nor a mask")
        if self.format is not None:
            _check_blocks(self.format, self.rows)

    @property
    def values_dtype(self) -> torch.dtype:
        """Of the values, as torch says it."""
        return DTYPES[self.dtype]

    def coded_shapes(self) -> CodedShapes:
        """The parts that the codes consist of."""
        assert self.format is not None
        rows, columns = self.rows
        return CodedShapes(parse(self.format), (rows, columns), self.values_dtype, self.kept)

    @classmethod
    def of(cls, shape: tuple[int, ...], shapes: CodedShapes, masked: bool) -> "WeightText":
        """That of a weight in codes."""
        mask = "none" if not masked else "zeros" if shapes.kept is None else "bits"
        text = str(shapes.format)
        return cls(shape, NAMES[shapes.dtype], text, shapes.shape, mask, shapes.kept)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _is_shape(value: Any) -> bool:
    return all(map(_is_size, value)) and _is_size(math.prod(max(size, 1) for size in value))


def _check_blocks(text: str, rows: tuple[int, ...]) -> None:
    fmt = parse(text)
    if len(rows) != 2:
        raise InputValueError(f"rows={rows} are no matrix")
    if isinstance(fmt, BlockFormat):
        sizes = tile(rows, fmt.block_size)
        padded = math.prod(-(-n // size) * size for n, size in zip(rows, sizes, strict=True))
        if padded > _LARGEST_BLOCK * (rows[0] * rows[1] + 4096):
            raise InputValueError(f"format={text} has blocks far larger than rows={rows}")


def _check_scales(scales_by_format: Any) -> None:
    """Refuse what is not formats by tensor, of a layer that is switched between them."""
    if scales_by_format is None:
        return
    for role, texts in scales_by_format.items():
        if role not in ROLES or not isinstance(texts, list):
            raise InputValueError(f"scales_by_format={scales_by_format} are no formats by tensor")
        for text in texts:
            if not parse(text).learns_scales:
                raise InputValueError(f"{text} learns no scales")


@dataclass(frozen=True)
class Contents:
    """All that a file says beside its tensors.

    Args:
        weights: How the weights are stored that are in codes or have a mask, by their names.
        layers: The recipe of each quantised layer, by its name.
        tied: Of tensors that have several names, each other name and the one that is stored.
        network: Class, and where it can be made from text, its configuration.
        labels: Names of the classes, in order.
        tokenizer: Its name and a hash of its content, or None.
        versions: Of what wrote the file.
        facts: What else was told, such as an accuracy.
    """

    weights: Mapping[str, WeightText] = field(default_factory=dict)
    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    tokenizer: Mapping[str, str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Texts for the header, JSON but for two of them."""
        content = {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "weights": {name: asdict(weight) for name, weight in self.weights.items()},
            "layers": {name: asdict(record) for name, record in self.layers.items()},
        }
        texts = {
            name: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            for name, value in content.items()
        }
        return {_VERSION_KEY: VERSION, "format": "pt", **texts}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Contents":
        """Read what :meth:`to_metadata` wrote.

        Raises:
            ValueError: If it is something else, in words that go on "the file ...".
        """
        if (version := metadata.get(_VERSION_KEY)) != VERSION:
            raise InputValueError(
                "was not written by lightning_adls.export"
                if version is None
                else f"is of version {version[:20]!r}, and this package reads {VERSION}"
            )
        try:
            raw = {each.name: json.loads(metadata[each.name]) for each in fields(cls)}
            weights = {
                name: WeightText(
                    **{**value, "shape": tuple(value["shape"]), "rows": tuple(value["rows"])}
                )
                for name, value in raw["weights"].items()
            }
            layers = {name: LayerRecord(**value) for name, value in raw["layers"].items()}
            for record in layers.values():
                _check_scales(record.scales_by_format)
                if record.kind not in KINDS or record.backend not in BACKENDS:
                    raise InputValueError(f"there is no layer of {record.kind}, {record}")
                for text in (getattr(record, role) for role in ROLES):
                    if text is not None:
                        parse(text)
            for name in ("network", "versions", "facts", "tied"):
                if not isinstance(raw[name], dict):
                    raise TypeError(f"{name} is no object")
            for texts in (raw["tied"].values(), raw["labels"]):
                if not all(isinstance(text, str) for text in texts):
                    raise TypeError("something is no text")
            labels = tuple(raw["labels"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = " ".join(str(error).split())[:200].rstrip(".")
            raise InputValueError(f"has a description that cannot be read: {why}") from error
        return cls(**{**raw, "weights": weights, "layers": layers, "labels": labels})
