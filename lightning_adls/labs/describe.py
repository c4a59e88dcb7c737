"""What a lab runs on and what its model consists of."""

from collections import Counter

from rich.console import Console
from torch import nn

from lightning_adls.labs.environment import environment
from lightning_adls.transforms.flops import flops_per_sample
from lightning_adls.transforms.lora import parameter_counts


def describe(console: Console, model: nn.Module, tokens: int) -> dict[str, dict[str, str]]:
    """Print and return the environment and what the model consists of, for texts of ``tokens``."""
    counts = parameter_counts(model)
    flops = flops_per_sample(model, tokens)
    summary = {
        "environment": environment(),
        "model": {
            **parts(model),
            "all": f"{counts.total:,} parameters, {counts.trainable:,} of them to be trained",
            "forward pass": f"{flops / 1e6:,.1f} MFLOPs for {tokens} tokens (multiply-add = 2)",
        },
    }
    for title, lines in summary.items():
        console.print(f"\n[bold]{title.capitalize()}")
        for name, value in lines.items():
            console.print(f"  {name:<20} {value}", soft_wrap=True, highlight=False)
    return summary


def parts(model: nn.Module) -> dict[str, str]:
    """Layers and parameters of each part of a model."""
    layers: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for name, module in model.named_modules():
        if own := sum(p.numel() for p in module.parameters(recurse=False)):
            part = ".".join(name.split(".")[:2])
            layers[part] += 1
            parameters[part] += own
    return {
        part: f"{parameters[part]:,} parameters in {n} {'layer' if n == 1 else 'layers'}"
        for part, n in layers.items()
    }
