"""How far something is, and how long the rest of it will take."""

from collections.abc import Callable
from time import monotonic


class Remaining:
    """Tells how much of many things is done, each time that one of them has ended.

    Args:
        clock: Seconds from anywhere.

    Example:
        >>> times = iter([0.0, 60.0])
        >>> left = Remaining(clock=lambda: next(times))
        >>> left.after_one(done=17, total=62)  # this one took a minute; the others were done before
        '17 of 62, about 45 min left'
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._started, self._work = clock, clock(), 0.0

    def after_one(self, done: int, total: int, work: float = 1.0, left: float | None = None) -> str:
        """One more has ended.

        Args:
            done: With those of earlier calls, which say nothing of the time.
            total: How many there will be.
            work: How much it was, where the things are not alike; 0 for one that says nothing of
                how long the others take.
            left: How much the others are, in the same unit; by default each is 1.
        """
        self._work += work
        if not self._work:
            self._started = self._clock()
        left = total - done if left is None else left
        if done >= total or not self._work:
            return f"{done} of {total}"
        seconds = (self._clock() - self._started) / self._work * left
        return f"{done} of {total}, about {spoken(seconds)} left"


def spoken(seconds: float) -> str:
    """A length of time, rounded as one says it.

    Example:
        >>> spoken(40.2), spoken(95), spoken(7500)
        ('40 s', '2 min', '2 h 5 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
