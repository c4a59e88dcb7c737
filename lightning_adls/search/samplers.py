"""What proposes the trials of a search."""

from typing import Protocol

from optuna.samplers import BaseSampler


class SamplerFactory(Protocol):
    """Makes samplers: a class, or what jsonargparse makes of its ``class_path`` in a YAML file.

    A protocol, because jsonargparse leaves out just what it is called with: of a class in a
    ``Callable[..., BaseSampler]`` it would leave out the first parameter.
    """

    def __call__(self, *, seed: int) -> BaseSampler:
        """A sampler whose proposals follow from ``seed``."""
        ...
