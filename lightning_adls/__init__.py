"""Compress transformers with PyTorch Lightning.

The names below are imported when they are first used, so that ``import lightning_adls`` and the
``--help`` of a script do not wait for torch, Lightning or Transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adls.callbacks import TrialPruning as TrialPruning
    from lightning_adls.classifier import TextClassifier as TextClassifier
    from lightning_adls.data import TextData as TextData
    from lightning_adls.formats import NumberFormat as NumberFormat
    from lightning_adls.layers import QuantizedLinear as QuantizedLinear
    from lightning_adls.models import bert as bert
    from lightning_adls.transforms.quantize import Quantize as Quantize
    from lightning_adls.transforms.quantize import summarize as summarize

_MODULE_OF = {
    "NumberFormat": "formats",
    "Quantize": "transforms.quantize",
    "QuantizedLinear": "layers",
    "TextClassifier": "classifier",
    "TextData": "data",
    "TrialPruning": "callbacks",
    "bert": "models",
    "summarize": "transforms.quantize",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
