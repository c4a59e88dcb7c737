"""What blocks say that they print, compared with what they printed."""

import re

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def differences(expected: str, printed: str) -> list[str]:
    """Lines that differ; ``...`` stands for any text of a line.

    Whole numbers have to be the same. Others may be a tenth off: trainings end a little elsewhere
    on another machine.
    """
    wanted, found = lines_of(expected), lines_of(printed)
    if len(wanted) != len(found):
        return [f"{len(wanted)} lines are expected, {len(found)} were printed:", *found]
    return [
        f"{line!r} is expected, {other!r} was printed"
        for line, other in zip(wanted, found, strict=True)
        if not _alike(line, other)
    ]


def lines_of(text: str) -> list[str]:
    """Those that are not empty, without the spaces at their ends."""
    return [line.rstrip() for line in text.strip().splitlines() if line.strip()]


def _alike(expected: str, printed: str) -> bool:
    pattern = re.escape(_NUMBER.sub("0", expected)).replace(re.escape("..."), ".*")
    if not re.fullmatch(pattern, _NUMBER.sub("0", printed)):
        return False
    if "..." in expected:
        return True
    for wanted, found in zip(_NUMBER.findall(expected), _NUMBER.findall(printed), strict=True):
        whole = wanted.lstrip("-").isdigit() and found.lstrip("-").isdigit()
        off = abs(float(wanted) - float(found))
        if (whole and off) or off > 0.1 * max(abs(float(wanted)), abs(float(found))):
            return False
    return True
