"""A run: one folder with one owner, which can be stopped at any moment and called again."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import yaml
from rich.console import Console

from lightning_adls.compiling import remember_machine
from lightning_adls.engines import Call, Channel, Engine, EngineFailed, Lost, Serial, Shared
from lightning_adls.errors import InputValueError
from lightning_adls.labs.activity import Activity
from lightning_adls.labs.folders import folder_of
from lightning_adls.labs.step_lines import StepLines
from lightning_adls.locks import exclusive
from lightning_adls.report import Row, write_json, write_text
from lightning_adls.settings import refuse_changes

# Settings of every lab that do not decide what a step finds.
_PASSING = {
    *("run", "logger", "tensorboard", "engine", "workers", "ray"),
    *("data.cache_dir", "data.num_workers"),
}


class Run:
    """A run of a lab: its folder, lock, settings, finished steps and checkpoints.

    The same command continues an interrupted run: a step is done once, and what it found is kept
    in ``run.json`` as soon as it ends. The folder belongs to one process at a time, from the
    construction to the end of ``with run:``; the arguments of the last call that did something
    stand in its ``config.yaml``.

    Args:
        lab: Name of the folder within ``lightning_logs``.
        name: Name of the run's folder within that of the lab.
        config_yaml: All arguments of the script.
        passing: Arguments that may differ between two calls of one run; ``data.limit_val`` is one
            of those of ``data``. (How a step depends on them shows in its name.)
        weights: Digest of the weights that the run starts from, instead of their path.

    Attributes:
        lab: Name of the lab.
        name: Name of the run.
        folder: Where everything of the run lies.
        rows: What each finished step found, by its name, in the order in which they finished.
        seconds: What each of them took, whatever it did.
        channel: From the worker that does a step to who gave it; None where there is none.
        copied: Whether this is the copy of a run in a worker, which does not own the folder.

    Raises:
        ValueError: If the run was begun with other settings, goes on in another process, or its
            folder cannot be written.
    """

    def __init__(
        self,
        lab: str,
        name: str,
        config_yaml: str,
        *,
        passing: Collection[str] = (),
        weights: str | None = None,
    ) -> None:
        self.lab = lab
        self.name = name
        self.copied = False
        self.channel: Channel | None = None
        self.folder = folder_of(lab, name)
        self.settings = settings_of(config_yaml, passing=passing, weights=weights)
        self._path = self.folder / "run.json"
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(self.folder / "run.lock"))
            except OSError as error:
                raise InputValueError(
                    f"{lab}: run={name!r}: {self.folder} cannot be written: {error.strerror}."
                ) from error
            self.rows, self.seconds = self._read()
            self._config_yaml = config_yaml
            self._stack = stack.pop_all()
        self._activity = Activity(self.folder)
        self._begun: set[str] = set()  # steps that workers do

    def _read(self) -> tuple[dict[str, Row], dict[str, float]]:
        """The steps of earlier calls, and their seconds."""
        if (self.folder / "ledger.json").exists():
            raise InputValueError(
                f"Run: {self.folder} was made by an earlier version, whose runs cannot be "
                "continued; give another --run."
            )
        if not self._path.exists():
            return {}, {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputValueError(
                f"Run: {self._path} is damaged ({error}); bring it back, or give another --run."
            ) from error
        refuse_changes("Run", str(self.folder), content["settings"], self.settings)
        return content["steps"], content.get("seconds", {})  # an older run does not know them

    def begin(self) -> None:
        """Write ``config.yaml``: nothing is left that may refuse the arguments.

        The first step begins a run; a lab whose work is in no step does it itself.
        """
        write_text(self.folder / "config.yaml", self._config_yaml)
        self._activity.begin()
        sections = [value for value in self.settings.values() if isinstance(value, dict)]
        if any(section.get("compile") == "auto" for section in sections):
            remember_machine(self.folder / "machine.json")

    def plan(self, steps: Iterable[str]) -> None:
        """Say which steps there will be, done or not, for who asks how far the run is."""
        self._activity.plan(steps)

    def step(self, name: str, work: Callable[[], Mapping[str, Any]]) -> Row:
        """The row of a step: from an earlier call if it finished then, or else from ``work``.

        Args:
            name: Of the step within the run; it tells apart what the passing settings decide.
            work: Does the step and returns what JSON can hold.
        """
        if name not in self.rows:
            self.begin()
            self._activity.began(name)
            self.done(name, *timed(work))
        return self.rows[name]

    def steps(
        self,
        works: Mapping[str, Callable[[Self], Mapping[str, Any]]],
        engine: Engine,
        sources: Collection[str] = (),
        console: Console | None = None,
    ) -> None:
        """Do several steps that do not depend on each other, on all workers of an engine.

        Args:
            works: By the name of the step, what does it; called with this run, or with its copy in
                another process, and returns what JSON can hold.
            engine: Who does them. Whoever ends first, the rows have the order of ``works``.
            sources: Earlier steps whose checkpoints they read.
            console: Where the workers are shown, unless it is this process that does the steps,
                which shows its trainings itself; None for nowhere.
        """
        self.plan(works)
        if all(name in self.rows for name in works):
            return
        self.begin()
        elsewhere = not isinstance(engine, Serial)
        lines = StepLines(console, engine.workers) if console and elsewhere else None
        try:
            with lines or nullcontext():
                engine.run(_Steps(self, works, sources, lines))
        finally:
            self._begun.clear()

    def done(self, name: str, row: Row, seconds: float, before: Collection[str] = ()) -> None:
        """Keep what a step found.

        Args:
            name: Of the step.
            row: What it found.
            seconds: What it took.
            before: Steps whose rows come after this one's.
        """
        row = json.loads(json.dumps(row))
        later = {each: found for each, found in self.rows.items() if each in before}
        earlier = {each: found for each, found in self.rows.items() if each not in before}
        steps = {**earlier, name: row, **later}
        spent = {**self.seconds, name: round(seconds, 2)}
        content = {"settings": self.settings, "steps": steps, "seconds": spent}
        write_json(self._path, content)
        self.rows, self.seconds = steps, spent  # done only when it is on disk
        self._activity.ended(name)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs; the folder stays with the process that has the lock."""
        return {**vars(self), "_stack": ExitStack(), "copied": True}

    def checkpoint(self, step: str) -> Path:
        """Where a step keeps the weights of its model."""
        return self.folder / "checkpoints" / f"{step.replace('/', '_')}.ckpt"

    def answers(self, split: str, step: str) -> Path:
        """Where a step keeps what its model said of each row of a split."""
        return self.folder / "predictions" / split / f"{step.replace('/', '_')}.csv"

    def keep(self, steps: Iterable[str]) -> None:
        """Remove all checkpoints but those of these steps.

        To be called with what all rows say, those of earlier calls included: then an interrupted
        run, continued, leaves the same files as one that was not interrupted.
        """
        kept = {self.checkpoint(step) for step in (*steps, *self._begun)}
        kept |= {self.checkpoint(step).with_suffix(".part") for step in self._begun}
        for path in self.folder.glob("checkpoints/*"):
            if path not in kept:
                path.unlink()

    def close(self) -> None:
        """Give the folder back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._activity.end(complete=kind is None)
        finally:
            self.close()


def timed(work: Callable[[], Mapping[str, Any]]) -> tuple[Row, float]:
    """What a step found, and the seconds that it took."""
    started = perf_counter()
    return dict(work()), perf_counter() - started


class _Steps:
    """Gives an engine the steps that a run lacks.

    Args:
        run: The run.
        works: As :meth:`Run.steps` takes them.
        sources: As :meth:`Run.steps` takes them.
        lines: Where the workers are shown; None for nowhere.
    """

    def __init__(
        self,
        run: Run,
        works: Mapping[str, Callable[[Any], Mapping[str, Any]]],
        sources: Collection[str],
        lines: StepLines | None,
    ) -> None:
        self._run, self._names, self._lines = run, list(works), lines
        shared, reads = Shared(run, run.folder), [run.checkpoint(source) for source in sources]
        self._calls = [
            Call(name, _do, shared, work, reads, [run.checkpoint(name), run.answers("val", name)])
            for name, work in works.items()
            if name not in run.rows
        ]

    def next(self) -> Call | None:
        """The next step in their order."""
        return self._calls.pop(0) if self._calls else None

    def began(self, call: Call, worker: int) -> None:
        """From now on its checkpoint may be there before its row is."""
        self._run._begun.add(call.name)
        self._run._activity.began(call.name, worker)
        if self._lines is not None:
            self._lines.began(call.name, worker)

    def heard(self, call: Call, message: float) -> None:
        """Show which share of its training is done; steps say nothing else."""
        if self._lines is not None:
            self._lines.moved(call.name, message)

    def ended(self, call: Call, result: Any) -> None:
        """Keep what a step found.

        Raises:
            EngineFailed: If its process died each time that it was tried.
        """
        if isinstance(result, Lost):
            raise EngineFailed(
                f"Run: the process of the step {call.name!r} died each time that it was tried: "
                f"{result.reason}; what is done is kept, and the same command goes on."
            )
        if self._lines is not None:
            self._lines.ended(call.name)
        self._run._begun.discard(call.name)
        place = self._names.index(call.name)
        row, seconds = result
        self._run.done(call.name, row, seconds, before=self._names[place + 1 :])


def _do(run: Run, work: Callable[[Run], Mapping[str, Any]], channel: Channel) -> tuple[Row, float]:
    run.channel = channel
    try:
        return timed(lambda: work(run))
    finally:
        run.channel = None


def settings_of(
    config_yaml: str, *, passing: Collection[str] = (), weights: str | None = None
) -> dict[str, Any]:
    """What decides the results of a run: all arguments but those that may change between calls.

    Args:
        config_yaml: All arguments of the script.
        passing: See :class:`Run`.
        weights: See :class:`Run`.
    """
    kept: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(config_yaml)))
    for argument in {*passing, *_PASSING, "weights"}:
        *parents, key = argument.split(".")
        at: Any = kept
        for parent in parents:
            at = at.get(parent) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(key, None)
    if weights is not None:
        kept.pop("finetune", None)  # the weights stand in for it
        kept["weights"] = weights
    return kept
