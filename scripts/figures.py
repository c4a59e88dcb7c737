"""Figures, from a checkout: the same as ``adls figures``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("figures")
