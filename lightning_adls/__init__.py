"""Compress transformers with PyTorch Lightning.

The names below are imported when they are first used, so that ``import lightning_adls`` and the
``--help`` of a script do not wait for torch, Lightning or Transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_adls import export as export
    from lightning_adls.callbacks import Calibration as Calibration
    from lightning_adls.callbacks import Distillation as Distillation
    from lightning_adls.callbacks import Pruning as Pruning
    from lightning_adls.callbacks import QuantizationAwareTraining as QuantizationAwareTraining
    from lightning_adls.callbacks import RngState as RngState
    from lightning_adls.callbacks import StagedQuantization as StagedQuantization
    from lightning_adls.callbacks import TrialPruning as TrialPruning
    from lightning_adls.checkpoints import CompressedCheckpoints as CompressedCheckpoints
    from lightning_adls.checkpoints import load as load
    from lightning_adls.classifier import TextClassifier as TextClassifier
    from lightning_adls.data import TextData as TextData
    from lightning_adls.data import reviews as reviews
    from lightning_adls.errors import InputValueError as InputValueError
    from lightning_adls.formats import NumberFormat as NumberFormat
    from lightning_adls.labs.notices import quiet as quiet
    from lightning_adls.layers import LayerFormats as LayerFormats
    from lightning_adls.layers import QuantizedConv1d as QuantizedConv1d
    from lightning_adls.layers import QuantizedConv2d as QuantizedConv2d
    from lightning_adls.layers import QuantizedEmbedding as QuantizedEmbedding
    from lightning_adls.layers import QuantizedLinear as QuantizedLinear
    from lightning_adls.layers.packed import PackedLinear as PackedLinear
    from lightning_adls.models import bert as bert
    from lightning_adls.optimizers import adamw as adamw
    from lightning_adls.planning import Plan as Plan
    from lightning_adls.planning import Scores as Scores
    from lightning_adls.planning import check_plan as check_plan
    from lightning_adls.planning import plan as plan
    from lightning_adls.planning import sensitivity as sensitivity
    from lightning_adls.supernet import SupernetTraining as SupernetTraining
    from lightning_adls.transforms import Drop as Drop
    from lightning_adls.transforms import LoRA as LoRA
    from lightning_adls.transforms import Pack as Pack
    from lightning_adls.transforms import Prune as Prune
    from lightning_adls.transforms import PruneStructured as PruneStructured
    from lightning_adls.transforms import calibrate as calibrate
    from lightning_adls.transforms import coverage as coverage
    from lightning_adls.transforms import parameter_groups as parameter_groups
    from lightning_adls.transforms.bake import bake as bake
    from lightning_adls.transforms.cost import summarize as summarize
    from lightning_adls.transforms.quantize import Quantize as Quantize

_MODULE_OF = {
    "Calibration": "callbacks",
    "CompressedCheckpoints": "checkpoints",
    "Distillation": "callbacks",
    "Drop": "transforms",
    "InputValueError": "errors",
    "LayerFormats": "layers",
    "LoRA": "transforms",
    "NumberFormat": "formats",
    "Pack": "transforms",
    "PackedLinear": "layers.packed",
    "Plan": "planning",
    "Prune": "transforms",
    "PruneStructured": "transforms",
    "Pruning": "callbacks",
    "QuantizationAwareTraining": "callbacks",
    "Quantize": "transforms",
    "QuantizedConv1d": "layers",
    "QuantizedConv2d": "layers",
    "QuantizedEmbedding": "layers",
    "QuantizedLinear": "layers",
    "RngState": "callbacks",
    "Scores": "planning",
    "StagedQuantization": "callbacks",
    "SupernetTraining": "supernet",
    "TextClassifier": "classifier",
    "TextData": "data",
    "TrialPruning": "callbacks",
    "adamw": "optimizers",
    "bake": "transforms.bake",
    "bert": "models",
    "calibrate": "transforms",
    "check_plan": "planning",
    "coverage": "transforms",
    "load": "checkpoints",
    "parameter_groups": "transforms",
    "plan": "planning",
    "quiet": "labs.notices",
    "reviews": "data",
    "sensitivity": "planning",
    "summarize": "transforms",
}

__version__ = "0.1.0"  # the one place: pyproject.toml reads it here

__all__ = [*_MODULE_OF, "export"]


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module(f"{__name__}.export")
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
