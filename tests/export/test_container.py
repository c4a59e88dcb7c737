"""Exported files are safetensors files; what is none is refused before memory is taken for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.export.container import DTYPES, Put, opened, write

TENSORS = {
    name: torch.arange(-3, 5).to(dtype).view(2, 4)[:, : 3 + place % 2]
    for place, (name, dtype) in enumerate(DTYPES.items())
} | {"empty": torch.empty(0, 3), "number": torch.tensor(2.5)}


def written(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    def fill(put: Put) -> None:
        for name, tensor in reversed(tensors.items()):
            put(name, tensor)

    shapes = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    write(path, shapes, metadata, fill)
    return path


def test_the_reference_implementation_reads_what_is_written(tmp_path: Path) -> None:
    path = written(tmp_path / "deep" / "a.safetensors", TENSORS, what="ä text")
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"what": "ä text"}
        assert set(file.keys()) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == tensor.dtype


def test_what_the_reference_implementation_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: t.contiguous() for name, t in TENSORS.items()}, path, {"a": "b"})
    with opened(path) as container:
        assert container.metadata == {"a": "b"}
        for name, tensor in TENSORS.items():
            assert torch.equal(container.read(name), tensor)


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, TENSORS, a="b") for name in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", TENSORS)
    before = path.read_bytes()

    def fail(put: Put) -> None:
        put("x", torch.zeros(3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, {"x": (torch.float32, (3,))}, {}, fail)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_data_type_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputValueError, match=r"'x' is of torch\.complex64"):
        written(tmp_path / "a", {"x": torch.zeros(1, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


def raw(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


WRONG = {
    "empty": b"",
    "short": b"1234567",
    "length beyond the file": raw({}, length=2**40),
    "length of nothing": raw(b""),
    "a pickle": b"\x80\x04\x95" + b"0" * 64,
    "no JSON": raw(b"not JSON"),
    "no text": raw(b"\xff\xfe\xfd"),
    "a list": raw([]),
    "deep": raw(b"[" * 100_000),
    "a long number": raw(b"1" * 100_000),
    "a name twice": raw(b'{"a":' + json.dumps(entry()).encode() + b',"a":{}}', bytes(8)),
    "metadata of numbers": raw({"__metadata__": {"a": 1}}),
    "metadata of a list": raw({"__metadata__": []}),
    "no entry": raw({"a": 3}, bytes(8)),
    "an entry too much": raw({"a": {**entry(), "more": 1}}, bytes(8)),
    "no dtype": raw({"a": entry("F33")}, bytes(8)),
    "a dtype of lists": raw({"a": {**entry(), "dtype": []}}, bytes(8)),
    "a negative size": raw({"a": entry(shape=(-2,))}, bytes(8)),
    "a size of text": raw({"a": entry(shape=("2",))}, bytes(8)),
    "a size that is true": raw({"a": entry(shape=(True, 2))}, bytes(8)),
    "a huge shape": raw({"a": entry(shape=(2**61, 2**61))}, bytes(8)),
    "a huge shape of nothing": raw({"a": entry(shape=(0, 2**61, 2**61), offsets=(0, 0))}),
    "many dimensions": raw({"a": entry(shape=(1,) * 100 + (2,))}, bytes(8)),
    "another size": raw({"a": entry(shape=(3,))}, bytes(8)),
    "one offset": raw({"a": entry(offsets=(8,))}, bytes(8)),
    "offsets the wrong way": raw({"a": entry(offsets=(8, 0))}, bytes(8)),
    "a torn end": raw({"a": entry()}, bytes(7)),
    "a longer end": raw({"a": entry()}, bytes(9)),
    "a gap": raw({"a": entry(offsets=(4, 12))}, bytes(12)),
    "an overlap": raw({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_container_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(WRONG[name])
    with pytest.raises(InputValueError, match=r"^export: .*a\.safetensors") as caught, opened(path):
        pass
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no file"), opened(tmp_path / "none"):
        pass
    with pytest.raises(InputValueError, match="cannot be read"), opened(tmp_path):
        pass


def test_a_file_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a", {"x": torch.zeros(10_000)})
    with opened(path) as container:
        with path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(InputValueError, match="became shorter"):
            container.read("x")
