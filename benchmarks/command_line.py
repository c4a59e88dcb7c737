"""What benchmarks have in common: arguments, and the machine that they name."""

import argparse
import os
import platform
from pathlib import Path

import torch

from lightning_adls.bench.workloads.devices import usable
from lightning_adls.formats import NumberFormat, parse


def machine(device: torch.device) -> str:
    """What the times were taken on."""
    threads = (
        f"{torch.get_num_threads()} of {os.cpu_count()} CPU threads, torch {torch.__version__}"
    )
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {threads}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {threads}"


def format_argument(text: str) -> NumberFormat:
    """Parse a format; argparse shows the message of this kind of error only."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def device_argument(text: str) -> torch.device:
    """Parse the name of a device that is there."""
    try:
        return usable(text, who := "benchmark")
    except ValueError as error:
        # argparse says before it whose argument it is.
        raise argparse.ArgumentTypeError(str(error).removeprefix(f"{who}: ")) from error


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, by default the CPU."""
    parser.add_argument("--device", type=device_argument, default="cpu", help="cpu or cuda")


def add_formats_and_threads(parser: argparse.ArgumentParser) -> None:
    """``--formats``, every format by default, and ``--threads``, torch's choice by default."""
    parser.add_argument(
        "--formats",
        nargs="+",
        type=format_argument,
        default=[cls() for cls in NumberFormat.classes.values()],
        help="formats to time, as text (default: every format with its defaults)",
    )
    parser.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
