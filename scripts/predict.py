"""Classifying texts, from a checkout: the same as ``adls predict``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("predict")
