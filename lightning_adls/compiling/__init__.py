"""Compiling that pays: graphs kept on disk, one graph for all layers, and when to compile."""

from lightning_adls.compiling.cache import keep_on_disk
from lightning_adls.compiling.decision import Decision, decide
from lightning_adls.compiling.machines import Machine, machine, remember_machine
from lightning_adls.compiling.regions import compile_layers, compile_whole, repeated_blocks

__all__ = [
    "Decision",
    "Machine",
    "compile_layers",
    "compile_whole",
    "decide",
    "keep_on_disk",
    "machine",
    "remember_machine",
    "repeated_blocks",
]
