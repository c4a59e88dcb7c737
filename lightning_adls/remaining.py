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

    def after_one(
        self,
        done: int,
        total: int,
        work: float = 1.0,
        left: float | None = None,
        begun: float = 0.0,
        hourly: bool = False,
    ) -> str:
        """One more has ended.

        Args:
            done: With those of earlier calls, which say nothing of the time.
            total: How many there will be.
            work: How much it was, where the things are not alike; 0 for one that says nothing of
                how long the others take.
            left: How much the others are, in the same unit; by default each is 1.
            begun: What is done of those that go on meanwhile: of two of which each is half done, 1.
                They are part of what was reached in the time so far.
            hourly: Whether to say how many an hour that makes.
        """
        self._work += work
        if not self._work:
            self._started = self._clock()
            return f"{done} of {total}"
        left = total - done if left is None else left
        begun, seconds = max(0.0, min(begun, left)), self._clock() - self._started
        each = seconds / (self._work + begun)
        parts = [f"{done} of {total}"]
        if hourly and each > 0:
            parts.append(f"{3600 / each:.{0 if each < 360 else 1}f} per hour")
        if done < total:
            parts.append(f"about {spoken(each * (left - begun))} left")
        return ", ".join(parts)


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
