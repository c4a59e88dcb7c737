"""What differences between measured accuracies mean: errors, tests, intervals, choices."""

from lightning_adls.significance.choices import Measured, indistinguishable, one_standard_error
from lightning_adls.significance.differences import (
    Difference,
    paired,
    paired_means,
    standard_error,
    standard_error_of_mean,
    unpaired,
)
from lightning_adls.significance.flips import Flips, flips
from lightning_adls.significance.intervals import Interval, paired_interval
from lightning_adls.significance.ranks import Correlation, rank_correlation

__all__ = [
    "Correlation",
    "Difference",
    "Flips",
    "Interval",
    "Measured",
    "flips",
    "indistinguishable",
    "one_standard_error",
    "paired",
    "paired_interval",
    "paired_means",
    "rank_correlation",
    "standard_error",
    "standard_error_of_mean",
    "unpaired",
]
