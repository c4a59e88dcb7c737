"""One file that others can load: weights in the bits of their formats, all else in text beside.

And a copy of a model that multiplies small integers: :func:`lower`.
"""

from lightning_adls.export.compressed import compressed_tensors
from lightning_adls.export.lowering import lower, lowerable
from lightning_adls.export.reading import describe, load
from lightning_adls.export.writing import save

__all__ = ["compressed_tensors", "describe", "load", "lower", "lowerable", "save"]
