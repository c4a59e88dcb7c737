"""The part `compile`: a measurement that misleads beside one that does not, and lengths."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_adls.bench.experiments import compiling_results
from lightning_adls.bench.experiments.part import Table, check_sizes
from lightning_adls.bench.first_calls import first_calls, over_sizes
from lightning_adls.bench.instruments.timing import Rounds
from lightning_adls.bench.measure import measure
from lightning_adls.bench.results import Results, StoredResults, attempt
from lightning_adls.bench.workloads.inputs import token_ids
from lightning_adls.bench.workloads.variants import Variant
from lightning_adls.formats import parse
from lightning_adls.models import check_length
from lightning_adls.transforms import Quantize


@dataclass(frozen=True)
class Compiling:
    """What is compiled.

    Args:
        backends: Of ``torch.compile``, a mode of inductor behind it: ``inductor max-autotune``.
            Changing lengths are measured with the first.
        formats: Number formats of quantised BERTs, by their texts.
        batch: Samples per step.
        tokens: Of each sample.
        few: Calls of the measurement that misleads, the first one included.
        lengths: What one compiled model is called with, one after the other.
        multiples: Lengths are padded to multiples of each; 1 leaves them.
        image: Height and width in pixels of what ResNet-18 is called with.

    Raises:
        ValueError: If a number is below 1, or there are no backends or lengths.
    """

    name: ClassVar[str] = "compile"
    extra_keys: ClassVar[tuple[str, ...]] = (
        "mean_ms",  # of the few first calls, compilation included
        "padded_to",  # lengths are padded to multiples of it
        "padding",  # share of the tokens that are padding
        "first_pass_ms",  # over all lengths, compilation included
        "later_pass_ms",  # over the same lengths again, median
    )

    backends: list[str]
    formats: list[str]
    batch: int
    tokens: int
    few: int
    lengths: list[int]
    multiples: list[int]
    image: int = 224

    def __post_init__(self) -> None:
        check_sizes(self)
        for text in self.backends:
            Variant.parse(text)
        for text in self.formats:
            parse(text)

    def check(self, network: nn.Module) -> None:
        """Refuse a network that the lengths do not fit.

        Raises:
            ValueError: If one of them, padded, is longer than its positions.
        """
        longest = max(padded(max(self.lengths), multiple) for multiple in self.multiples)
        check_length(network, max(self.tokens, longest))

    def measure(
        self,
        results: Results,
        network: nn.Module,
        dtypes: Sequence[str],
        rounds: Rounds,
        device: str,
    ) -> None:
        """Few calls, steady calls, steps of training, and changing lengths.

        Args:
            results: Where the records go.
            network: A BERT.
            dtypes: Few calls and lengths are measured in the first alone.
            rounds: Of steady calls and of training.
            device: Where.
        """
        variants = [variant for dtype in dtypes for variant in self._variants(dtype)]
        ids = token_ids(self.batch, self.tokens, vocab_size=_vocab_size(network))
        in_turn = partial(measure, device=device, rounds=rounds)
        self._few_calls(results, network, ids, self._variants(dtypes[0]), device)
        berts = {text: quantized_copy(network, text) for text in self.formats}
        steady = in_turn({"BERT": network} | berts, ids, variants)
        results.add(self.name, "steady", steady)
        self._resnet(results, variants, rounds, device)
        training = in_turn({"BERT": network}, ids, variants, training=True)
        results.add(self.name, "training", training)
        self._lengths(results, network, dtypes[0], device)

    def _variants(self, dtype: str) -> list[Variant]:
        compiled = [Variant.parse(text, dtype) for text in dict.fromkeys(self.backends)]
        return [Variant(dtype=dtype), *compiled]

    def _few_calls(
        self,
        results: Results,
        network: nn.Module,
        ids: dict[str, Tensor],
        variants: Sequence[Variant],
        device: str,
    ) -> None:
        for variant in variants:
            work = partial(first_calls, network, ids, variant, calls=self.few, device=device)
            record = attempt("BERT", variant, device, work)
            results.add(self.name, "few calls", [record], batch=self.batch, tokens=self.tokens)

    def _resnet(
        self, results: Results, variants: Sequence[Variant], rounds: Rounds, device: str
    ) -> None:
        """ResNet-18 as it is in torchvision, with random weights."""
        try:
            from torchvision.models import resnet18
        except (ImportError, RuntimeError) as failed:  # built for another torch: a RuntimeError
            error = f"torchvision cannot be imported, `pip install torchvision`: {failed}"
            record = attempt("ResNet-18", variants[0], device, lambda: {"error": error})
            results.add(self.name, "steady", [record])
            return
        images = torch.randn(self.batch, 3, self.image, self.image)
        target = {"ResNet-18": resnet18()}
        steady = measure(target, images, variants, device=device, rounds=rounds)
        results.add(self.name, "steady", steady)

    def _lengths(self, results: Results, network: nn.Module, dtype: str, device: str) -> None:
        for multiple, dynamic in product(self.multiples, (False, None, True)):
            variant = Variant.parse(self.backends[0], dtype, dynamic)
            inputs = list(self._padded_inputs(multiple, _vocab_size(network)))
            work = partial(over_sizes, network, inputs, variant, device=device)
            total = sum(padded(length, multiple) for length in self.lengths)
            padding = 1 - sum(self.lengths) / total
            record = attempt("BERT", variant, device, work) | {"batch": self.batch}
            results.add(self.name, "lengths", [record], padded_to=multiple, padding=padding)

    def _padded_inputs(self, multiple: int, vocab_size: int) -> Iterator[dict[str, Tensor]]:
        """One batch of each length, padded as BERT is used to it."""
        for length in self.lengths:
            ids = token_ids(self.batch, padded(length, multiple), vocab_size=vocab_size)
            ids["attention_mask"][:, length:] = 0
            yield ids

    def tables(self, results: StoredResults) -> Iterator[Table]:
        """Few calls, steady calls, training, lengths."""
        return compiling_results.tables(results, self.name)

    def explain(self, results: StoredResults) -> str:
        """Why the mean of few calls and the median of steady calls differ."""
        return compiling_results.explain(results)

    def draw(self, results: StoredResults) -> None:
        """Bars of the wrong and the right measurement and of the graphs; the mean over n calls."""
        compiling_results.draw(results)


def padded(length: int, multiple: int) -> int:
    """The smallest multiple that is no less than ``length``.

    Example:
        >>> padded(17, 8), padded(16, 8)
        (24, 16)
    """
    return -(-length // multiple) * multiple


def quantized_copy(network: nn.Module, text: str) -> nn.Module:
    """A copy whose linear layers are all in one format."""
    network = copy.deepcopy(network)
    Quantize({"*": text})(network)
    return network


def _vocab_size(network: nn.Module) -> int:
    return int(network.config.vocab_size)  # type: ignore[union-attr,arg-type]
