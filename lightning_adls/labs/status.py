"""How far a run is: read from its folder and its storage, in which nothing is changed.

Whether a run goes on is not asked of its lock: who tries a lock holds it for a moment, and a run
that begins in this moment would be refused. A run writes down which process it is, and a search
renews its lease; a process of this machine can be asked whether it is still the same.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_adls.errors import InputValueError, MissingFileError, did_you_mean
from lightning_adls.labs.activity import Call, last_call
from lightning_adls.labs.folders import LOGS, folder_of
from lightning_adls.labs.study_status import StudyStatus, studies_of
from lightning_adls.process import machine, runs
from lightning_adls.remaining import spoken

# Any of them makes a folder one of a run.
_MARKS = ("run.lock", "activity.json", "config.yaml")


def status(lab: str, arguments: Sequence[str], defaults: Mapping[str, Any]) -> str:
    """The status of a run of a lab, as lines.

    Args:
        lab: Its name.
        arguments: A command line; what matters of it is ``--run``, ``--storage`` and ``--config``.
        defaults: Of these options.

    Raises:
        InputValueError: If there is no such run; the message names those that there are.
    """
    run = str(_given("run", arguments, defaults))
    folder = folder_of(lab, run)
    if not any((folder / mark).is_file() for mark in _MARKS):
        raise InputValueError(_no_run(lab, run))
    config, call, steps = _config(folder), last_call(folder), _content(folder)
    storage = _given("storage", arguments, {"storage": config.get("storage")})
    studies = studies_of(lab, run, config, storage or folder / "search.journal")
    rows = steps.get("steps", {})
    lines = [f"{lab}/{run}: {_state(call, studies, rows)}", *_last_written(folder)]
    lines += _studies(studies)
    lines += _steps(call, rows, steps.get("seconds", {}))
    return "\n".join(lines)


def _given(name: str, arguments: Sequence[str], defaults: Mapping[str, Any]) -> Any:
    """What a command line says of an option, or one of its ``--config`` files; the last wins."""
    value = defaults.get(name)
    for place, argument in enumerate(arguments):
        option, equals, given = argument.partition("=")
        if not equals:
            given = next(iter(arguments[place + 1 :]), "")
        if option == f"--{name}":
            value = given
        elif option == "--config":
            try:
                content = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
            except OSError as error:
                raise MissingFileError(f"--config: {given} cannot be read.") from error
            value = content.get(name, value)
    return value


def _no_run(lab: str, run: str) -> str:
    found = {
        str(path.parent.relative_to(LOGS / lab))
        for mark in _MARKS
        for path in (LOGS / lab).glob(f"**/{mark}")
    }
    if not found:
        return f"{lab}: run={run!r} is not there, and no other: {LOGS / lab} has no run."
    meant = did_you_mean(run, found) or ";"
    return f"{lab}: run={run!r} is not there{meant} there are {', '.join(sorted(found))}."


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    content: dict[str, Any] = {}
    if path.is_file():
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return content


# Several times as fast, where PyYAML was built with it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _content(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    content: dict[str, Any] = {}
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
    return content


def _goes_on(call: Call) -> bool | None:
    """Whether the call's process still works on the run; None if it is of another machine."""
    if call["ended"] is not None:
        return False
    return runs(call["pid"], call["started"]) if call["machine"] == machine() else None


def _state(
    call: Call | None, studies: Sequence[StudyStatus], rows: Mapping[str, Mapping[str, Any]]
) -> str:
    if call is None and (rows or any(study.done for study in studies)):
        return "not known: an earlier version ran it, which kept no account of its calls"
    if call is None:
        return "not begun: no call of it has come to its work"
    goes_on, who = _goes_on(call), f"process {call['pid']} on {call['host']}"
    if goes_on is None and any(study.run_by(call["machine"], call["pid"]) for study in studies):
        goes_on = True
    if goes_on:
        return f"running for {_since(call['begun'])}, {who}"
    if goes_on is None:
        return f"not complete; {who}, another machine, which cannot be asked from here"
    if call["complete"]:
        return f"complete; ended {_since(call['ended'] or 0.0)} ago"
    if call["ended"] is None:
        return f"interrupted: {who} is gone; the same command continues"
    return f"interrupted; ended {_since(call['ended'])} ago; the same command continues"


def _since(moment: float) -> str:
    return spoken(max(0.0, time.time() - moment))


def _last_written(folder: Path) -> Iterator[str]:
    newest: tuple[float, Path] | None = None
    for path in folder.rglob("*"):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue  # the run has removed it meanwhile
        if path.is_file() and (newest is None or found.st_mtime > newest[0]):
            newest = found.st_mtime, path
    if newest is not None:
        moment, path = newest
        yield f"last written: {path.relative_to(folder)}, {_since(moment)} ago"


def _studies(studies: Sequence[StudyStatus]) -> Iterator[str]:
    if not studies:
        return
    done, total = sum(s.done for s in studies), sum(max(s.done, s.total) for s in studies)
    width = max(len(study.name) for study in studies)
    yield ""
    yield f"{done} of {total} trials in {len(studies)} studies"
    yield f"  {'study':<{width}}   trials  best            pruned  failed"
    for study in studies:
        count = f"{study.done}/{study.total}"
        cells = f"  {study.name:<{width}}  {count:>7}"
        if study.trials:
            cells += f"  {study.best:<15} {study.pruned:>6}  {study.failed:>6}"
        else:
            cells += " " * 32
        yield f"{cells}  {study.state}".rstrip()
        if study.now:
            yield f"    {study.now}"
    for study in studies:
        yield from study.failures()


def _steps(
    call: Call | None, rows: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]
) -> Iterator[str]:
    planned = [] if call is None else call["planned"]
    goes_on = call is not None and _goes_on(call) is not False
    running = {} if call is None else call["running"]
    missing = [step for step in planned if step not in rows and step not in running]
    begun = [step for step in running if step not in rows]
    names = [*rows, *begun, *missing]
    if not names:
        return
    width = max(map(len, names))
    yield ""
    counts = {"done": len(rows), "begun": len(begun), "missing": len(missing)}
    yield "steps: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    for step, row in rows.items():
        accuracy = f"{row['accuracy']:.4f}" if "accuracy" in row else ""
        took = f"{seconds[step]:.1f} s" if step in seconds else ""
        yield f"  done     {step:<{width}}  {accuracy:>6}  {took:>9}".rstrip()
    for step in begun:
        what = "running" if goes_on else "stopped"
        about = f"worker {running[step]['worker']}, since {_since(running[step]['since'])}"
        yield f"  {what}  {step:<{width}}  {about if goes_on else ''}".rstrip()
    yield from (f"  missing  {step}" for step in missing)
