"""Fit, validate, test or predict, from a checkout: the same as ``adls train``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("train")
