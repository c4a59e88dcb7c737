"""``python -m lightning_adls``: the same as ``adls``."""

from lightning_adls.commands.entry import main

if __name__ == "__main__":
    main()
