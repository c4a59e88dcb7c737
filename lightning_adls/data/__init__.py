"""Labelled texts as a LightningDataModule: where they come from, how they are batched."""

from lightning_adls.data import reviews
from lightning_adls.data.text import TextData

__all__ = ["TextData", "reviews"]
