"""Who runs a study: one process at a time, also where several machines share its storage."""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, TypedDict
from uuid import uuid4

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lightning_adls.errors import InputValueError
from lightning_adls.process import machine, runs, started

PREFIX = "lease/"
_LATEST = "lease_number"  # of who took the lease last; it only grows
RENEWAL_SECONDS = 15.0
STALE_SECONDS = 60.0
_POLL_SECONDS = 0.05
_logger = logging.getLogger(__name__)


class Claim(TypedDict):
    """What a process says about a study, in the study's attributes."""

    host: str
    pid: int
    started: int | None  # which process of this pid: ticks since the machine's start, if known
    machine: str  # what pid counts within
    time: float  # of the last renewal, seconds since 1970
    number: int | None  # its place in the queue, None while it draws one
    held: bool


class Lease:
    """The right to run a study; from :func:`hold`."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._key = PREFIX + uuid4().hex[:12]
        self._number: int | None = None
        self._held = False
        self._written = 0.0  # when, in seconds since 1970
        self._lost_to: str | None = None

    def check(self) -> None:
        """Refuse to go on if another process has taken the study over; the storage is asked.

        The lease is renewed if a quarter of its time has passed: what is checked now can be told
        before it is stale.

        Raises:
            InputValueError: If so.
        """
        if not self._is_ours():
            raise self._lost()
        # By the clock that others judge it by, which also goes on while a machine sleeps.
        if not 0 <= time.time() - self._written < RENEWAL_SECONDS:
            self._write()

    def tell(
        self,
        trial: optuna.Trial,
        values: float | Sequence[float] | None,
        state: TrialState | None = None,
    ) -> FrozenTrial:
        """Store what a trial came to, unless another process has taken the study over.

        The process may be stopped between asking and storing. But who takes over closes the trials
        that run before it counts any, and a storage finishes a trial once: either the result is
        there before it counts, or it is refused here.

        Raises:
            InputValueError: If the study was taken over.
        """
        self.check()
        try:
            return self._study.tell(trial, values, state=state)
        except (UpdateFinishedTrialError, ValueError):
            self.check()  # else the values are what is wrong
            raise

    def _lost(self) -> InputValueError:
        return InputValueError(
            f"Search: the study {self._study.study_name!r} was taken over by {self._lost_to}, "
            f"because this process did not renew its lease for {STALE_SECONDS:g} s; wait for "
            "the other to end, then continue."
        )

    def acquire(self) -> None:
        """Queue as in a bakery (Lamport 1974): no storage of Optuna can test and set.

        Of processes that come at the same moment the one with the lowest number, then the lowest
        key, wins. Each reads the others only after it has written its own number, so none can
        overlook another. Numbers grow from one holder to the next, so that one that slept sees
        that it is not the last, even if who came after it has ended.

        Raises:
            InputValueError: If another process comes first.
        """
        try:
            self._write()
            attributes = self._study.user_attrs
            earlier = [claim["number"] or 0 for claim in _claims(attributes).values()]
            self._number = 1 + max([*earlier, attributes.get(_LATEST, 0)])
            self._write()
            self._refuse_if_later()
            self._study.set_user_attr(_LATEST, self._number)
            self._held = True
            self._write()
        except BaseException:
            self.release()
            raise
        for key in self.others(stale=True):
            self._study.set_user_attr(key, None)

    def _refuse_if_later(self) -> None:
        others = self.others()
        while any(claim["number"] is None for claim in others.values()):
            time.sleep(_POLL_SECONDS)
            others = self.others()
        for key, claim in others.items():
            if claim["held"] or (claim["number"], key) < (self._number, self._key):
                raise _taken(self._study, claim)
        # One that slept while it queued may have been overtaken.
        if not self._study.user_attrs.get(self._key):
            self._lost_to = "another process"
            raise self._lost()

    def renew(self) -> bool:
        """Say that this process goes on; False if another has taken over."""
        if ours := self._is_ours():
            self._write()
        return ours

    def _is_ours(self) -> bool:
        attributes = self._study.user_attrs
        # Who takes over strikes out what is stale, and may have ended since.
        if attributes.get(_LATEST) != self._number or not attributes.get(self._key):
            holders = [claim for claim in self.others().values() if claim["held"]]
            self._lost_to = _who(holders[0]) if holders else "another process"
            return False
        return True

    def release(self) -> None:
        """Let others run the study."""
        self._study.set_user_attr(self._key, None)

    def _write(self) -> None:
        now = time.time()
        claim = Claim(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=started(os.getpid()),
            machine=machine(),
            time=now,
            number=self._number,
            held=self._held,
        )
        self._study.set_user_attr(self._key, claim)
        self._written = now

    def others(self, stale: bool = False) -> dict[str, Any]:
        """The claims of other processes that go on, or of those that do not."""
        claims = _claims(self._study.user_attrs)
        claims.pop(self._key, None)
        return {key: claim for key, claim in claims.items() if _stale(claim) == stale}


@contextmanager
def hold(study: optuna.Study) -> Iterator[Lease]:
    """Run a study alone: hold its lease, renewed by a thread, until the block ends.

    A lease is stale when its process is gone (known on the same machine) or was not renewed for
    60 s; the clocks of the machines must agree to within half of that. With clocks further apart
    a study may be taken over while its process goes on, which then stops: no result counts twice.

    Raises:
        InputValueError: If another process holds it; the message says which.
    """
    lease, ended = Lease(study), Event()
    lease.acquire()

    def renew() -> None:
        while not ended.wait(RENEWAL_SECONDS):
            try:
                if not lease.renew():
                    return
            except Exception as error:  # the storage cannot be reached; perhaps the next time
                _logger.warning("The lease of %r was not renewed: %s", study.study_name, error)

    thread = Thread(target=renew, name=f"lease of {study.study_name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        try:
            lease.release()
        except Exception as error:  # all results are stored, and the lease runs out by itself
            _logger.warning("The lease of %r was not given back: %s", study.study_name, error)


def holder(study: optuna.Study) -> Claim | None:
    """What the process says that runs a study; None if there is none."""
    claims = Lease(study).others().values()
    return next((claim for claim in claims if claim["held"]), None)


def check_free(study: optuna.Study) -> None:
    """Refuse a study that another process runs, before any work starts.

    Raises:
        InputValueError: If so.
    """
    if (claim := holder(study)) is not None:
        raise _taken(study, claim)


def _taken(study: optuna.Study, claim: Claim) -> InputValueError:
    return InputValueError(
        f"Search: the study {study.study_name!r} is being run by {_who(claim)}; wait for it to "
        "end, or run other studies meanwhile."
    )


def _who(claim: Claim) -> str:
    age = max(0.0, time.time() - claim["time"])
    return f"process {claim['pid']} on {claim['host']} (heard of {age:.0f} s ago)"


def _claims(attributes: dict[str, Any]) -> dict[str, Any]:
    """Those in the attributes of a study, by their keys."""
    return {key: value for key, value in attributes.items() if key.startswith(PREFIX) and value}


def _stale(claim: Claim) -> bool:
    if time.time() - claim["time"] > STALE_SECONDS:
        return True
    return claim["machine"] == machine() and not runs(claim["pid"], claim.get("started"))
