"""Lab 2, from a checkout: the same as ``adls lab2``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("lab2")
