"""The commands of ``adls``, in the order of its help."""

from dataclasses import dataclass
from pathlib import Path

from lightning_adls.labs.configs import CONFIGS


@dataclass(frozen=True)
class Command:
    """A module of this folder, by its name.

    Args:
        about: What it does, for the help.
        config: Stem of the YAML file in configs/ that holds its defaults, if it has one.
    """

    about: str
    config: str | None = None


COMMANDS = {
    "lab0": Command("fine-tune a BERT, whole and with LoRA", "lab0_finetune"),
    "lab1": Command("quantise it at many widths, prune it to many sparsities", "lab1_compression"),
    "lab2": Command("search its architecture, with and without compression", "lab2_nas"),
    "lab3": Command("search number formats for every linear layer", "lab3_mixed_precision"),
    "lab4": Command("time torch.compile, fused attention and packed weights", "lab4_performance"),
    "train": Command("fit, validate, test or predict with one model, quantised or not", "train"),
    "export": Command("write a run's model into files that others can load"),
    "predict": Command("classify texts by an exported model"),
    "figures": Command("draw the figures of runs again"),
    "report": Command("write a lab report of one run or several, side by side"),
    "doctor": Command("say whether this machine has what is needed, and what it can do"),
}


def source_of(name: str) -> Path:
    """The module of a command, which is read for its help and not imported."""
    return Path(__file__).with_name(f"{name}.py")


def defaults_of(name: str) -> Path:
    """The YAML file that a command reads before ``--config`` and the arguments."""
    return CONFIGS / f"{COMMANDS[name].config}.yaml"
