"""Transforms as data: what a run's files hold, so that a model can be built again from them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lightning_adls.errors import InputValueError
from lightning_adls.transforms.drop import Drop
from lightning_adls.transforms.lora import LoRA
from lightning_adls.transforms.pack import Pack
from lightning_adls.transforms.prune import Prune
from lightning_adls.transforms.quantize import Quantize
from lightning_adls.transforms.structured import PruneStructured

AnyTransform = Drop | LoRA | Pack | Prune | PruneStructured | Quantize
# By the name that a file gives them: no other class is ever looked up.
TRANSFORMS: dict[str, type[AnyTransform]] = {
    f"lightning_adls.transforms.{transform.__name__}": transform
    for transform in (Drop, LoRA, Pack, Prune, PruneStructured, Quantize)
}


def describe(transform: Any) -> dict[str, Any]:
    """A transform as what JSON and YAML can hold; :func:`read` makes it a transform again.

    All arguments are there, so that a default that changes later does not change an old file. Keep
    the order of a recipe's patterns, of which later ones win: write YAML with ``sort_keys=False``.

    Args:
        transform: Of one of the ``TRANSFORMS``.

    Returns:
        ``class_path`` and ``init_args``, as jsonargparse and Lightning's command lines have them.

    Raises:
        ValueError: If it is another object.

    Example:
        >>> describe(Drop(["encoder.layer.0.*"]))["class_path"]
        'lightning_adls.transforms.Drop'
        >>> describe(Pack())["init_args"]
        {'layers': ['*']}
    """
    for path, known in TRANSFORMS.items():
        if type(transform) is known:
            arguments = {field.name: getattr(transform, field.name) for field in fields(transform)}
            plain = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in arguments.items()
            }
            if isinstance(transform, Quantize):
                plain["layers"] = transform.to_dict()
            return {"class_path": path, "init_args": plain}
    raise InputValueError(
        f"describe: transform={transform!r} is of none of the classes {', '.join(TRANSFORMS)}."
    )


def read(description: Mapping[str, Any]) -> AnyTransform:
    """The transform that a description is of.

    Args:
        description: ``class_path``, one of the ``TRANSFORMS``, and perhaps ``init_args``; what is
            left out of these has its default.

    Raises:
        ValueError: If it has another form, or names another class, or its arguments are wrong.
        ImportError: If the transform needs a package that is not installed.

    Example:
        >>> read({"class_path": "lightning_adls.transforms.Pack", "init_args": {"layers": ["0"]}})
        Pack(layers=('0',))
    """
    if not isinstance(description, Mapping) or (
        set(description) - {"init_args"} != {"class_path"}
        or not isinstance(description.get("init_args", {}), Mapping)
    ):
        raise InputValueError(
            f"read: description={description!r} is not a mapping of 'class_path' and, at most, "
            "'init_args' with names and values."
        )
    path, arguments = description["class_path"], description.get("init_args", {})
    if not isinstance(path, str) or path not in TRANSFORMS:
        raise InputValueError(f"read: class_path={path!r} is none of {', '.join(TRANSFORMS)}.")
    known = [field.name for field in fields(TRANSFORMS[path])]
    if unknown := [name for name in arguments if name not in known]:
        raise InputValueError(
            f"read: {unknown[0]!r} is no argument of {path}; there are {', '.join(known)}."
        )
    try:
        return TRANSFORMS[path](**arguments)
    except TypeError as error:  # one is missing, or is not what can be compared or listed
        raise InputValueError(
            f"read: init_args={dict(arguments)} do not fit {path}: {error}"
        ) from error
