"""What a model is compared with: files of several kinds and modules, each a function of a batch."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.errors import InputValueError, MissingFileError, MissingPackageError
from lightning_adls.export.onnx_session import session
from lightning_adls.export.reading import describe, load
from lightning_adls.models import loading
from lightning_adls.models.inputs import input_names, select
from lightning_adls.transforms import memory

Batch = Mapping[str, Tensor]
Logits = Callable[[Batch], Any]
Target = str | Path | nn.Module | Logits

ONNX, PACKED, PROGRAM = ".onnx", ".safetensors", ".pt2"
_KINDS = (
    f"a packed file ({PACKED}), an ONNX file ({ONNX}), a program of torch.export ({PROGRAM}), or a "
    "folder of Transformers"
)
_NO_INPUTS = ("labels", "index")


@dataclass(frozen=True)
class Opened:
    """Something that can be run.

    Args:
        logits: Of a batch, what has ``logits`` or is them, ``(batch, classes)``.
        bytes: Of the files, or of a module's parameters and buffers; None for other functions.
    """

    logits: Logits
    bytes: int | None


def check(who: str, target: Target) -> None:
    """Refuse what cannot be opened, as far as that can be told without opening it.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the package that runs it is not installed.
        ValueError: If it is of no kind that can be opened.
    """
    if isinstance(target, nn.Module):
        return
    if not isinstance(target, str | Path):
        if not callable(target):
            raise InputValueError(f"{who} is a {type(target).__name__}; give {_KINDS} or a module.")
        return
    path = Path(target)
    if not path.exists():
        raise MissingFileError(f"{who}: there is no file {str(path)!r}.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputValueError(f"{who}: {str(path)!r} holds no config.json; give {_KINDS}.")
        _require("compressed_tensors", who, path)
    elif path.suffix == ONNX:
        _require("onnxruntime", who, path)
    elif path.suffix not in (PACKED, PROGRAM):
        raise InputValueError(f"{who}: {str(path)!r} is of no known kind; give {_KINDS}.")


def _require(package: str, who: str, path: Path) -> None:
    if find_spec(package) is None:
        raise MissingPackageError(
            f"{who}: {str(path)!r} needs {package}, which is not installed; run pip install "
            "'lightning_adls[export]'."
        )


def open_target(who: str, target: Target, model: Any) -> Opened:
    """Open what :func:`check` lets pass.

    Args:
        who: Begins the sentence of an error.
        target: A file, a folder, a module or a function of a batch.
        model: What a packed file is loaded into (a copy of it) where the file does not say how to
            make the network.

    Raises:
        ValueError: If a file is damaged, or of another network.
    """
    if isinstance(target, nn.Module):
        return Opened(of_module(who, target), sum(memory(target).values()))
    if not isinstance(target, str | Path):
        return Opened(lambda batch: target(_inputs(batch)), None)
    path = Path(target)
    if path.is_dir():
        files = chain(path.glob("*.safetensors"), [path / "config.json"])
        network, missing = loading.load(who, str(path))
        if missing:
            raise InputValueError(f"{who}: {str(path)!r} lacks weights, {sorted(missing)[0]!r}.")
        return Opened(of_module(who, network.eval()), _bytes(files))
    if path.suffix == ONNX:
        return Opened(OnnxModel(path).logits, _bytes([path, Path(f"{path}.data")]))
    if path.suffix == PROGRAM:
        return Opened(_of_program(who, path), _bytes([path]))
    return Opened(of_module(who, _load_packed(path, model)), _bytes([path]))


def _bytes(files: Any) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name not in _NO_INPUTS}


def _load_packed(path: Path, model: Any) -> nn.Module:
    described = describe(path)["network"]
    if "config" in described.get("network", described) or not isinstance(model, nn.Module):
        return load(path, packed=True)
    return load(path, deepcopy(model), packed=True)


def of_module(who: str, module: nn.Module) -> Logits:
    """A module as a function of a batch: it gets the entries that its forward has names for."""
    tensors = chain(module.parameters(), module.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    names = input_names(module.forward)

    def logits(batch: Batch) -> Any:
        inputs = {name: tensor.to(device) for name, tensor in _inputs(batch).items()}
        if isinstance(module, TextClassifier):
            return module.logits(inputs)
        chosen = select(inputs, names)
        if not chosen:
            raise InputValueError(
                f"{who}: a {type(module).__name__} takes {', '.join(sorted(names or ()))}, and "
                f"batches have {', '.join(inputs)}; name them alike, or give a function of a batch."
            )
        return module(**chosen)

    return logits


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU, with torch's number of threads.

    Args:
        path: Of the file.

    Attributes:
        metadata: Texts that the file has beside the graph.

    Raises:
        ValueError: If ONNX Runtime cannot open it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session = session(path, torch.get_num_threads())
        except InputValueError:
            raise
        except Exception as error:  # its own classes have no common base
            raise InputValueError(
                f"export: {str(path)!r} cannot be opened by ONNX Runtime: "
                f"{' '.join(str(error).split())[:200]}."
            ) from error
        self._path = path
        self._inputs = [each.name for each in self._session.get_inputs()]
        outputs = [each.name for each in self._session.get_outputs()]
        self._output = "logits" if "logits" in outputs else outputs[0]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def logits(self, batch: Batch) -> Tensor:
        """Logits, ``(batch, classes)``, of the entries that the graph has inputs for.

        Raises:
            ValueError: If the batch lacks an input.
        """
        inputs = _fed(f"export: {str(self._path)!r}", self._inputs, batch)
        feeds = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(self._session.run([self._output], feeds)[0])


def _of_program(who: str, path: Path) -> Logits:
    """A saved ``torch.export`` program; its inputs are known by their names in the graph."""
    try:
        program = torch.export.load(path)
    except Exception as error:  # of its archive, of its schema, of what torch no longer knows
        raise InputValueError(
            f"{who}: {str(path)!r} cannot be opened by torch.export: "
            f"{' '.join(str(error).split())[:200]}."
        ) from error
    module: Any = program.module()
    names = [str(name) for name in program.graph_signature.user_inputs]
    positional = len(names)
    if program.example_inputs is not None:
        positional = len(program.example_inputs[0])

    def logits(batch: Batch) -> Any:
        values = list(_fed(f"{who}: {str(path)!r}", names, batch).values())
        named = dict(zip(names[positional:], values[positional:], strict=True))
        return module(*values[:positional], **named)

    return logits


def _fed(who: str, names: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    """What a graph is given, which knows no defaults: its inputs, all of them, by name.

    Networks of Transformers take ``token_type_ids`` of zeros where they are given none.
    """
    known = dict(batch)
    if "token_type_ids" in names and "input_ids" in known:
        known.setdefault("token_type_ids", torch.zeros_like(known["input_ids"]))
    if missing := [name for name in names if name not in known]:
        raise InputValueError(
            f"{who} takes {', '.join(names)}, and batches have no {missing[0]!r}."
        )
    return {name: known[name] for name in names}
