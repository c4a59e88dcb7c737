"""The safetensors container, written and read a tensor at a time.

https://github.com/huggingface/safetensors#format: eight bytes with the length of a header in JSON,
the header, and the bytes of the tensors without a gap, least significant byte first. What is read
was perhaps written by someone else: nothing is allocated or trusted before it is checked against
the size of the file.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.export.replacing import replacing

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_LONGEST_HEADER = 100_000_000  # as in the reference implementation
_LARGEST = 2**62  # elements and bytes: what torch can count

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
Put = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Args:
        dtype: One of the ``DTYPES``.
        shape: Of the tensor.
        start: First byte, counted from the start of the file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(
    path: Path, shapes: Shapes, metadata: Mapping[str, str], fill: Callable[[Put], None]
) -> None:
    """Write a container under another name, then put it in the place of ``path``.

    Args:
        path: Of the file; its folder is made if it is missing.
        shapes: Dtype and shape of each tensor, by name.
        metadata: Texts for the header.
        fill: Called with a function that takes a name and what comes next in its tensor: all of
            it, or a piece, whatever its shape.

    Raises:
        ValueError: If a dtype has no name in the container or the file cannot be written. An older
            file stays as it is then, as it does whatever ``fill`` raises.
    """
    for name, (dtype, _) in shapes.items():
        if dtype not in NAMES:
            raise InputValueError(
                f"export: {name!r} is of {dtype}, which safetensors files cannot hold; convert it."
            )
    entries, header = _laid_out(shapes, metadata)
    ends = {name: entry.start for name, entry in entries.items()}

    def put(name: str, piece: Tensor) -> None:
        entry, start = entries[name], ends[name]
        assert piece.dtype == entry.dtype
        ends[name] += piece.nbytes
        assert ends[name] <= entry.start + entry.nbytes
        file.seek(start)
        flat = piece.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)

    with replacing(path) as part, part.open("wb") as file:
        file.write(header)
        fill(put)
        assert all(ends[name] == entry.start + entry.nbytes for name, entry in entries.items())


def _laid_out(shapes: Shapes, metadata: Mapping[str, str]) -> tuple[dict[str, Entry], bytes]:
    """Where each tensor goes, and the bytes before them."""
    # The widest first, so that each lies at a multiple of its elements' size.
    order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
    content: dict[str, Any] = {_METADATA: dict(metadata)}
    entries, start = {}, 0
    for name in order:
        entries[name] = entry = Entry(*shapes[name], start)
        start += entry.nbytes
        content[name] = {
            "dtype": NAMES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": (entry.start, start),
        }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    before = len(text).to_bytes(8, "little") + text
    return {n: Entry(e.dtype, e.shape, e.start + len(before)) for n, e in entries.items()}, before


class Container:
    """A container that is open for reading; see :func:`opened`.

    Attributes:
        entries: Where each tensor lies, by name.
        metadata: The texts of the header.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            self.refuse("is no safetensors file, or only the start of one")
        self.entries, self.metadata = self._read_header(file.read(length), 8 + length, size)

    def refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error that the file is to blame.

        Raises:
            ValueError: Always.
        """
        raise InputValueError(f"export: {str(self._path)!r} {why}.") from cause

    def _read_header(
        self, text: bytes, start: int, size: int
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        try:
            content = json.loads(text.decode(), object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            self.refuse("has a header that is no JSON", error)
        if not isinstance(content, dict):
            self.refuse("has a header that is no JSON object")
        metadata = content.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            self.refuse(f"has a {_METADATA} that holds other things than texts")
        entries = {name: self._entry(name, value, start) for name, value in content.items()}
        end = start
        for name, entry in sorted(
            entries.items(), key=lambda item: (item[1].start, item[1].nbytes)
        ):
            if entry.start != end:
                self.refuse(f"has a gap or an overlap before the bytes of {name!r}")
            end += entry.nbytes
        if end != size:
            self.refuse(f"has {size} bytes and its header tells of {end}")
        return entries, metadata

    def _entry(self, name: str, value: Any, start: int) -> Entry:
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            self.refuse(f"does not say what {name!r} is")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self.refuse(f"has {name!r} in a data type other than {', '.join(DTYPES)}")
        if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
            self.refuse(f"has a shape or a place of {name!r} that is none")
        if math.prod(max(size, 1) for size in shape) > _LARGEST:
            self.refuse(f"has a shape of {name!r} that is too large")
        entry = Entry(DTYPES[dtype], tuple(shape), start + offsets[0])
        if offsets[1] - offsets[0] != entry.nbytes:
            self.refuse(f"has a shape of {name!r} that does not fit its number of bytes")
        return entry

    def read(self, name: str) -> Tensor:
        """A tensor, in main memory, whose values may be changed.

        Raises:
            ValueError: If there is none of this name, or the file became shorter.
        """
        if (entry := self.entries.get(name)) is None:
            self.refuse(f"has no tensor {name!r}")
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=entry.dtype)
        content = bytearray(entry.nbytes)
        try:
            self._file.seek(entry.start)
            count = self._file.readinto(content)  # type: ignore[attr-defined]
        except OSError as error:
            self.refuse(f"cannot be read: {error.strerror}", error)
        if count != len(content):
            self.refuse("became shorter while it was read")
        return torch.frombuffer(content, dtype=entry.dtype).view(entry.shape)


@contextmanager
def opened(path: str | Path) -> Iterator[Container]:
    """Open a container and check its header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is no container.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise MissingFileError(f"export: there is no file {str(path)!r}.") from error
    except OSError as error:
        raise InputValueError(f"export: {str(path)!r} cannot be read: {error.strerror}.") from error
    with file:
        yield Container(path, file)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise InputValueError("a name comes twice")
    return content


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 64
        and all(type(value) is int and 0 <= value <= _LARGEST for value in values)
    )
