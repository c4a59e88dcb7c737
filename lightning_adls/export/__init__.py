"""One file that others can load: weights in the bits of their formats, all else in text beside."""

from lightning_adls.export.compressed import compressed_tensors
from lightning_adls.export.reading import describe, load
from lightning_adls.export.writing import save

__all__ = ["compressed_tensors", "describe", "load", "save"]
