"""Exporting a model, from a checkout: the same as ``adls export``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("export")
