"""Loading what was quantised, pruned, packed or adapted from its file alone."""

import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar, overload

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.layers import has_recipe
from lightning_adls.transforms.fitting import renamed, with_tied
from lightning_adls.transforms.quantize import records_of, state_for
from lightning_adls.transforms.rebuild import rebuild

_logger = logging.getLogger(__name__)
ModuleT = TypeVar("ModuleT", bound=nn.Module)
# Of what Transformers' `save_pretrained` writes: the weights, or the names of several such files.
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@overload
def load(module_or_class: type[ModuleT], path: str | Path, **init: Any) -> ModuleT: ...
@overload
def load(module_or_class: ModuleT, path: str | Path, **init: Any) -> ModuleT: ...


def load(module_or_class: Any, path: str | Path, **init: Any) -> Any:
    """Load a model with all that was done to its layers: it computes what the saved one computed.

    The file says which layers were quantised and how, masked, packed or given adapters (see
    :func:`lightning_adls.transforms.rebuild.rebuild`), so no recipe is needed. What it does not say
    has to be done to the module before: ``Drop``, ``PruneStructured``. Nothing is unpickled. A
    checkpoint that was written while the weights were averaged holds the average.

    Args:
        module_or_class: The plain network or LightningModule, or one that was changed already;
            changed in place. Or a class: a LightningModule's, which is made with the arguments that
            its checkpoint holds, or one of Transformers, made by the folder's ``config.json``. A
            network may be a part of what was saved: that of a LightningModule, for example.
        path: A checkpoint of Lightning, what ``torch.save(model.state_dict(), path)`` wrote, a
            safetensors file, or a folder of ``save_pretrained``.
        init: Arguments for the class; they win over those of the file, which has texts and numbers
            alone: objects, such as a network, are to be given.

    Returns:
        The module, in eval mode. Its parameters stay in their data types and on their devices.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, is of another network or says too little, or arguments are
            missing or are given with an instance.
        ImportError: If a backend or adapters need a package that is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Prune, Quantize
        >>> model, x = nn.Sequential(nn.Linear(32, 2)).eval(), torch.ones(1, 32)
        >>> Prune(0.5)(model)
        >>> Quantize({"*": "MXInt(width=4)"})(model)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(model.state_dict(), f"{folder}/model.pt")
        ...     loaded = load(nn.Sequential(nn.Linear(32, 2)), f"{folder}/model.pt")
        >>> torch.equal(loaded(x), model(x))
        True
    """
    if not isinstance(module_or_class, type | nn.Module):
        raise InputValueError(
            f"load: module_or_class={module_or_class!r} is neither a module nor a class of one."
        )
    checkpoint = _read(Path(path))
    if isinstance(module_or_class, type):
        module = _made(module_or_class, checkpoint, path, init)
    elif init:
        raise InputValueError(
            f"load: {', '.join(init)} cannot be given with an instance of "
            f"{type(module_or_class).__name__}; give its class, or make it with them."
        )
    else:
        module = getattr(module_or_class, "_orig_mod", module_or_class)  # what was compiled
    lightning_module = isinstance(module, L.LightningModule)
    if lightning_module:
        module.configure_model()
    state = renamed(module, checkpoint["state_dict"], "load")
    checkpoint["state_dict"] = with_tied(module, state)
    if lightning_module and "pytorch-lightning_version" in checkpoint:
        module.on_load_checkpoint(checkpoint)
    state, strict = checkpoint["state_dict"], getattr(module, "strict_loading", True)
    rebuild(module, state, strict)
    try:
        module.load_state_dict(state, strict)
    except RuntimeError as error:
        raise InputValueError(
            f"load: {str(path)!r} does not fit {type(module).__name__}: {_line(error)}"
        ) from error
    return (module if isinstance(module_or_class, type) else module_or_class).eval()


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``, with at least a ``state_dict``."""
    try:
        if path.is_dir():
            return {"state_dict": _read_folder(path)}
        if path.suffix == ".safetensors":
            return {"state_dict": load_file(path)}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MissingFileError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"load: there is no file {str(path)!r}: {_line(error)}") from error
    except OSError as error:
        raise InputValueError(f"load: {str(path)!r} cannot be read: {_line(error)}") from error
    except UnpicklingError as error:
        raise InputValueError(
            f"load: {str(path)!r} is no checkpoint, or holds objects of Python, which may run code "
            f"and are not loaded; save tensors, numbers and texts alone: {_line(error)}"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, SafetensorError) as error:
        raise InputValueError(f"load: {str(path)!r} is no checkpoint: {_line(error)}") from error
    if isinstance(content, Mapping):
        if isinstance(content.get("state_dict"), Mapping):
            return dict(content)
        if any(isinstance(value, Tensor) for value in content.values()):
            return {"state_dict": dict(content)}
    raise InputValueError(
        f"load: {str(path)!r} holds no tensors by name, by themselves or as its 'state_dict'."
    )


def _read_folder(folder: Path) -> dict[str, Any]:
    files = {_WEIGHTS}
    if (folder / _INDEX).is_file():
        files = set(
            json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        )
    elif not (folder / _WEIGHTS).is_file():
        raise MissingFileError(
            f"load: folder {str(folder)!r} holds no {_WEIGHTS}; name a file, or a folder that "
            "save_pretrained() wrote."
        )
    return {key: value for name in sorted(files) for key, value in load_file(folder / name).items()}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _made(cls: Any, checkpoint: dict[str, Any], path: str | Path, init: dict[str, Any]) -> Any:
    """An instance of a class, as the file and ``init`` say."""
    if issubclass(cls, L.LightningModule):
        return _made_module(cls, checkpoint, init)
    config = getattr(cls, "config_class", None)
    if config is None or not Path(path).is_dir():
        raise InputValueError(
            f"load: {cls.__name__} cannot be made from {str(path)!r}; only a LightningModule can, "
            "or a model of Transformers from a folder of save_pretrained(): make it, and give the "
            "instance."
        )
    return cls._from_config(config.from_pretrained(path, **init))  # in the data type of the folder


def _made_module(
    cls: type[L.LightningModule], checkpoint: dict[str, Any], init: dict[str, Any]
) -> L.LightningModule:
    arguments = {**checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}), **init}
    signature = inspect.signature(cls)
    if (name := checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME)) in signature.parameters:
        arguments = {name: arguments, **init}
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        arguments = {k: v for k, v in arguments.items() if k in signature.parameters}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputValueError(
            f"load: {cls.__name__} cannot be made from its checkpoint alone: {error}; give it as "
            f"load({cls.__name__}, path, name=value)."
        ) from error
    return cls(**arguments)


class CompressedCheckpoints(L.LightningModule):
    """A LightningModule whose checkpoints bring along what was done to its layers.

    Outside of a fit a plain module takes a checkpoint of a quantised, pruned, packed or adapted one
    by becoming that: in ``load_from_checkpoint`` and in ``validate``, ``test`` and ``predict`` with
    a ``ckpt_path``. In a fit, which has callbacks to quantise, it takes the weights, and logs it.
    Layers that round already are compared in both: another recipe is refused.

    Inherit from it in the place of ``L.LightningModule``. Who overrides ``on_load_checkpoint`` has
    to call that of ``super()``.

    Example:
        >>> class Net(CompressedCheckpoints):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Linear(32, 2)
    """

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Become the module that was saved, or, in a fit, take its weights alone.

        Raises:
            ValueError: If the checkpoint is of another network; see
                :func:`lightning_adls.transforms.rebuild.rebuild`.
        """
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        if not self._in_fit():
            rebuild(self, state, strict=False, keep=True)
            return
        modules = dict(self.named_modules())
        for name, record in records_of(state).items():
            if name in modules and not has_recipe(modules[name]):
                _logger.warning(
                    "%s: the checkpoint rounds %s (%s) and this module does not; only its weights "
                    "are taken.",
                    *(type(self).__name__, name, record),
                )
                break
        checkpoint["state_dict"] = state_for(self, state)

    def _in_fit(self) -> bool:
        if self._trainer is None:
            return False
        state = self._trainer.state
        return state.fn == TrainerFn.FITTING and state.status == TrainerStatus.RUNNING
