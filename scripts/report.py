"""A lab report, from a checkout: the same as ``adls report``."""

from lightning_adls.commands.start import start

if __name__ == "__main__":
    start("report")
