"""How far a run is, and how long the rest will take."""

from collections.abc import Callable
from time import monotonic


class Remaining:
    """Counts what is done of a run.

    Args:
        total: Steps or trials in all, 1 or more.
        done: Those of earlier calls; they say nothing of the time.
        clock: Seconds from anywhere.

    Example:
        >>> times = iter([0.0, 60.0])
        >>> left = Remaining(total=4, done=1, clock=lambda: next(times))
        >>> left.one_more()
        '2 of 4, about 2 min left'
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = monotonic) -> None:
        self._total, self._done, self._before, self._clock = total, done, done, clock
        self._started = clock()

    def known(self, done: int) -> None:
        """Count what turns out to be done already."""
        self._done += done
        self._before += done

    def one_more(self) -> str:
        """Count one, and say how far that is."""
        self._done += 1
        here = f"{self._done} of {self._total}"
        left = max(0, self._total - self._done)
        if not left:
            return here
        seconds = (self._clock() - self._started) / (self._done - self._before) * left
        return f"{here}, about {spoken(seconds)} left"


def spoken(seconds: float) -> str:
    """A length of time, rounded as one says it.

    Example:
        >>> spoken(40.2), spoken(95), spoken(7500)
        ('40 s', '2 min', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
