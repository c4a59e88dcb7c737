"""The ways in which one model is run: eager or compiled, and in which data type."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from lightning_adls.errors import InputValueError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_numbers = count()


def _isolation() -> dict[str, Any]:
    known = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return {"isolate_recompiles": True} if known else {}


@dataclass(frozen=True)
class Variant:
    """How to run a model.

    Whether torch knows the backend and its mode is asked when it is needed, by ``check``: backends
    can be registered later, and one that is missing shall cost one record, not the others.

    Args:
        backend: Of ``torch.compile``: ``inductor``, ``aot_eager``, ...; None runs eagerly.
        mode: Of inductor: ``default``, ``reduce-overhead``, ``max-autotune``, ...
        dynamic: True compiles for all sizes, False for each size anew, None as torch chooses.
        dtype: Of weights, buffers and inputs that are floating-point numbers: the whole model is
            cast, there is no autocast. ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ValueError: If the data type is another, or an option does not go with the backend.

    Example:
        >>> str(Variant()), str(Variant("inductor", mode="max-autotune", dtype="bfloat16"))
        ('eager float32', 'compiled inductor max-autotune bfloat16')
    """

    backend: str | None = None
    mode: str | None = None
    dynamic: bool | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputValueError(f"Variant: dtype={self.dtype!r} is none of {', '.join(DTYPES)}.")
        if self.mode is not None and self.backend != "inductor":
            raise InputValueError(
                f"Variant: mode={self.mode!r} is for backend='inductor', not {self.backend!r}."
            )
        if self.dynamic is not None and self.backend is None:
            raise InputValueError(f"Variant: dynamic={self.dynamic} needs a backend that compiles.")

    @classmethod
    def parse(cls, text: str, dtype: str = "float32", dynamic: bool | None = None) -> "Variant":
        """A variant that compiles, from the name of a backend and, behind it, of a mode.

        Raises:
            ValueError: As for the class.

        Example:
            >>> Variant.parse("inductor max-autotune", dtype="bfloat16").mode
            'max-autotune'
        """
        backend, _, mode = text.partition(" ")
        return cls(backend, mode or None, dynamic, dtype)

    def __str__(self) -> str:
        if self.backend is None:
            return f"eager {self.dtype}"
        shapes = {None: "", True: "dynamic", False: "static"}[self.dynamic]
        words = ("compiled", self.backend, self.mode or "", shapes, self.dtype)
        return " ".join(filter(None, words))

    def check(self) -> None:
        """Refuse what this installation of torch does not know.

        Raises:
            ValueError: If it knows no such backend or no such mode of inductor.
        """
        if self.backend is not None and self.backend not in torch._dynamo.list_backends(None):
            known = ", ".join(torch._dynamo.list_backends())
            raise InputValueError(
                f"Variant: backend={self.backend!r} is unknown; torch has {known}, and for "
                "debugging eager, aot_eager and the rest of torch._dynamo.list_backends(None)."
            )
        if self.mode is not None:
            from torch._inductor import list_mode_options

            if self.mode not in list_mode_options():
                raise InputValueError(
                    f"Variant: mode={self.mode!r} is unknown; "
                    f"inductor has {', '.join(list_mode_options())}."
                )

    def compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, to be compiled when it is first called; eager variants give it back.

        torch keeps what it compiled with the code that it compiled, which all instances of a class
        share. Each result therefore has code of its own, around ``call``: none finds what another
        compiled, and none goes over the limit of recompilations because of others. Functions that
        follow a graph break keep their code; torch 2.13 can tell them apart too, an older one finds
        those of an equal variant of the same class.
        """
        if self.backend is None:
            return call

        def run(*arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named)

        # torch also remembers by name and line which sizes have changed.
        run.__code__ = run.__code__.replace(co_name=f"run_{next(_numbers)}")
        compiled: Callable[..., Any] = torch.compile(
            run, backend=self.backend, mode=self.mode, dynamic=self.dynamic, **_isolation()
        )
        return compiled
