"""Lab 0, from a checkout: the same as ``adls lab0``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("lab0")
