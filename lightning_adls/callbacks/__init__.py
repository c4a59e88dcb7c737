"""Callbacks that other Lightning projects can use as they are."""

from lightning_adls.callbacks.calibration import Calibration
from lightning_adls.callbacks.distillation import Distillation
from lightning_adls.callbacks.pruning import Cubic, OneShot, Pruning
from lightning_adls.callbacks.quantization import QuantizationAwareTraining
from lightning_adls.callbacks.rng import RngState
from lightning_adls.callbacks.stages import StagedQuantization
from lightning_adls.callbacks.trial_pruning import TrialPruning, check_metrics

__all__ = [
    "Calibration",
    "Cubic",
    "Distillation",
    "OneShot",
    "Pruning",
    "QuantizationAwareTraining",
    "RngState",
    "StagedQuantization",
    "TrialPruning",
    "check_metrics",
]
