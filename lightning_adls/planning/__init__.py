"""Which layer gets which formats under a budget of bits: scores, plan, and how far both hold."""

from lightning_adls.planning.check import PlanCheck, check_plan
from lightning_adls.planning.first_order import sensitivity
from lightning_adls.planning.measuring import (
    Measure,
    Measured,
    divergence,
    loss_increase,
    measured,
    measured_sensitivity,
)
from lightning_adls.planning.planner import Plan, plan
from lightning_adls.planning.samples import rows_of
from lightning_adls.planning.scores import Scores

__all__ = [
    "Measure",
    "Measured",
    "Plan",
    "PlanCheck",
    "Scores",
    "check_plan",
    "divergence",
    "loss_increase",
    "measured",
    "measured_sensitivity",
    "plan",
    "rows_of",
    "sensitivity",
]
