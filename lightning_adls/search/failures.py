"""Which errors are a trial's own, so that the search goes on without it."""

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import OptunaError


class TrialFailed(Exception):
    """A trial went wrong by what it tried (NaN, out of memory); the search goes on."""


class SearchFailed(Exception):
    """Trial after trial failed; the message has their reasons."""


# RuntimeErrors that no model raises: a fault of the code, or of the storage.
_OF_OTHERS = (NotImplementedError, RecursionError, OptunaError)
# torch raises RuntimeError for most of what a model can do wrong; its OutOfMemoryError is one.
_OF_TRIALS = (FloatingPointError, MemoryError, RuntimeError)


@contextmanager
def trial_failing() -> Iterator[None]:
    """Turn an error that is the trial's own into :class:`TrialFailed`, and leave all others.

    Others (a full disk, a fault in ``build``) would meet every trial that follows as well.
    """
    try:
        yield
    except _OF_OTHERS:
        raise
    except _OF_TRIALS as error:
        raise TrialFailed(f"{type(error).__name__}: {error}") from error
