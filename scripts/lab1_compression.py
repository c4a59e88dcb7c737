"""Lab 1, from a checkout: the same as ``adls lab1``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("lab1")
