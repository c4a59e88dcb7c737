"""What was done with what: data, model, hyper-parameters, hardware, command."""

from collections.abc import Mapping
from typing import Any

from lightning_adls.labs.stored import StoredRun, words_of_data, words_of_model

# Arguments that say no more than the lines above them, or where a file lies.
_LEFT_OUT = {"data", "model", "seed", "seeds", "run", "config", "logger", "callbacks", "storage"}
_LEFT_OUT |= {"figures", "tensorboard", "weights", "precisions", "ranges", "samplers"}


def setup(run: StoredRun) -> tuple[dict[str, str], dict[str, str]]:
    """The setup of a run, line by line: what was done, and with what."""
    summary, lines = run.summary, dict[str, str]()
    if "data" in run.config:
        lines["Data"] = words_of_data(run.config["data"])
    if rows := summary.get("rows"):
        lines["Rows"] = ", ".join(f"{n:,} {split}" for split, n in rows.items() if n is not None)
    if run.classes:
        lines["Classes"] = ", ".join(run.classes)
    lines["Model"] = words_of_model(run.config["model"])
    for name, value in summary.get("model", {}).items():
        lines[f"Model, {name}"] = str(value)
    lines["Seed"] = ", ".join(map(str, run.config.get("seeds", [run.config.get("seed", 0)])))
    lines |= hyper_parameters(run.config)
    machine = {
        "CPU" if name == "cpu" else name[0].upper() + name[1:]: str(value)
        for name, value in summary.get("environment", {}).items()
    }
    versions = summary.get("versions", {})
    shown = (name for name in ("lightning_adls", "torch", "lightning", "transformers", "optuna"))
    machine["Versions"] = ", ".join(f"{n} {versions[n]}" for n in shown if n in versions)
    machine["Commit"] = str(summary.get("commit") or "not from a checkout")
    machine["Command"] = f"`{summary.get('command', 'not known')}`"
    machine["Time in all"] = in_hours(summary.get("total_seconds", 0.0))
    return lines, machine


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of the run as lines, an argument of arguments as one line."""
    lines = {}
    for name, value in config.items():
        if name not in _LEFT_OUT and value not in (None, [], {}):
            lines[f"`{name}`"] = _words(value)
    return lines


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        if "class_path" in value:
            name = str(value["class_path"]).rpartition(".")[2]
            rest = _words(value.get("init_args") or {})
            return f"{name} ({rest})" if rest else name
        return ", ".join(f"{k} {_nested(v)}" for k, v in value.items() if v not in (None, [], {}))
    if isinstance(value, list):
        return ", ".join(map(_nested, value))
    return str(value)


def _nested(value: Any) -> str:
    return f"[{_words(value)}]" if isinstance(value, list) else _words(value)


def in_hours(seconds: float) -> str:
    """A time as one says it.

    Example:
        >>> in_hours(42.3), in_hours(3725)
        ('42 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
