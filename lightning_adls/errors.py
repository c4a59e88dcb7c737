"""What is raised when the user, and not the package, has to mend something."""

import difflib
from collections.abc import Iterable


class InputValueError(ValueError):
    """An argument, a file or a combination of them is wrong.

    Its message is one sentence: who found it, what is wrong, and what is right or to be done. The
    scripts print it in one line; everything else that is raised comes with its traceback.
    """


class NoMatchError(InputValueError):
    """A pattern of names matches nothing."""


class OtherNetworkError(InputValueError):
    """A state dict is of another network."""


class MissingFileError(InputValueError, FileNotFoundError):
    """A file, a folder or something on a hub is not there."""

    # OSError would print an error number.
    __str__ = ValueError.__str__


class MissingPackageError(InputValueError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""

    __str__ = ValueError.__str__


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """What to put into a message about a name that is not there: the one that was probably meant.

    Returns:
        ``"; did you mean Integer?"``, or nothing where no name is near.

    Example:
        >>> did_you_mean("Int8", ["MXInt", "Integer"]), did_you_mean("xyz", ["MXInt"])
        ('; did you mean Integer?', '')
    """
    names = {name.lower(): name for name in known}
    word = wrong.lower()
    # An abbreviation with its number of bits, before words that are merely spelt alike.
    start = word.rstrip("0123456789")
    near = [name for name in names if len(start) > 2 and name.startswith(start)]
    near = near or difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""
