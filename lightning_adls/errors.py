"""What is raised when the user, and not the package, has to mend something."""


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
