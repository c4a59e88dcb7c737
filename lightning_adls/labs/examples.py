"""One text as Lightning's ``example_input_array``, by which arithmetic is counted."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from lightning_adls.classifier import TextClassifier

ChoiceT = TypeVar("ChoiceT")


def text_of(tokens: int) -> dict[str, Tensor]:
    """Inputs of a network, int64, each ``(1, tokens)``: one text of full length."""
    ones = torch.ones(1, tokens, dtype=torch.int64)
    return {"input_ids": ones, "attention_mask": ones}


def with_example(
    build: Callable[[ChoiceT], TextClassifier], tokens: int
) -> Callable[[ChoiceT], TextClassifier]:
    """Build classifiers that have an example, so that a search can count ``bit_operations``."""

    def built(choice: ChoiceT) -> TextClassifier:
        module = build(choice)
        module.example_input_array = text_of(tokens)
        return module

    return built
