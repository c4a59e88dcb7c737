"""Text in, label and probability out, from an exported file and the tokenizer beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from lightning_adls.data.batching import Frame, LengthBatches, Rows, Truncation
from lightning_adls.data.tokens import Encoder, load_encoder, without_line_breaks
from lightning_adls.errors import InputValueError
from lightning_adls.export.reading import describe, load
from lightning_adls.export.targets import ONNX, PACKED, Logits, OnnxModel, check, of_module

TOKENIZER = "tokenizer"  # the folder beside a file
REVIEWS = "reviews"  # stands for the tokenizer of the built-in data


@dataclass(frozen=True)
class TextFacts:
    """How the texts became tokens that a model was trained on: the fact ``text`` of a file.

    Args:
        tokenizer: Name on the hub, path of a folder, or ``reviews``.
        hash: Of its content.
        max_length: Most tokens of a row, special ones included.
        truncation: What a longer text keeps: its ``head``, its ``tail`` or both, ``head_tail``.
        special_tokens: Whether the name of a special token within a text is that token.
    """

    tokenizer: str
    hash: str
    max_length: int
    truncation: Truncation = "head"
    special_tokens: bool = False

    def __post_init__(self) -> None:
        kinds = {"tokenizer": str, "hash": str, "max_length": int, "special_tokens": bool}
        wrong = [name for name, kind in kinds.items() if type(getattr(self, name)) is not kind]
        if wrong or self.truncation not in get_args(Truncation):
            name = wrong[0] if wrong else "truncation"
            raise InputValueError(f"{name}={getattr(self, name)!r} is none")

    @classmethod
    def of(
        cls,
        tokenizer: str | None,
        max_length: int,
        truncation: Truncation = "head",
        special_tokens: bool = False,
    ) -> "TextFacts":
        """Those of a tokenizer, None for that of the built-in reviews, which is loaded.

        Raises:
            FileNotFoundError: If it is not there.
        """
        digest = load_encoder(tokenizer).digest
        return cls(tokenizer or REVIEWS, digest, max_length, truncation, special_tokens)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """What a model takes a text for.

    Args:
        text: As it was given.
        label: Name of the likeliest class.
        probability: Of it, 0 to 1.
        probabilities: Of all classes, by name.
    """

    text: str
    label: str
    probability: float
    probabilities: Mapping[str, float]


class Predictor:
    """An exported text classifier, ready to be asked: a packed file or one of ONNX.

    The tokenizer is taken from the folder ``tokenizer`` beside the file; if there is none, from the
    hub or the folder that the file names. It has to be the one that the model was trained with: its
    hash is in the file. Weights of a packed file stay in their codes.

    Args:
        path: Of the file, which has the fact ``text``, see :class:`TextFacts`.

    Attributes:
        labels: Names of the classes, in order; empty if the file names none.

    Raises:
        FileNotFoundError: If the file or the tokenizer is not there.
        ImportError: If it is of ONNX and ONNX Runtime is not installed.
        ValueError: If it is damaged, does not say how texts became tokens, or the tokenizer is
            another one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_adls import Quantize, bert, export
        >>> model = bert(vocab_size=1000, hidden_size=32, num_hidden_layers=1)
        >>> Quantize({"*": "MXInt(width=4)"})(model)
        >>> text = export.TextFacts.of(None, max_length=64).to_dict()
        >>> with TemporaryDirectory() as folder:
        ...     export.save(model, f"{folder}/a.safetensors", labels=["bad", "good"], text=text)
        ...     (found,) = Predictor(f"{folder}/a.safetensors")(["A moving story."])
        >>> found.label in ("bad", "good"), found.probability >= 0.5
        (True, True)
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.suffix not in (PACKED, ONNX):
            raise InputValueError(
                f"predict: {str(path)!r} is neither a packed file ({PACKED}) nor one of ONNX "
                f"({ONNX}); export one."
            )
        check("predict", path)
        self._path = path
        self._logits, labels, facts = _opened(path)
        self.labels: list[str] = list(labels)
        try:
            self._facts = TextFacts(**facts["text"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputValueError(
                f"predict: {str(path)!r} does not say how texts become tokens ({error}); write it "
                "with text=TextFacts.of(tokenizer, max_length).to_dict()."
            ) from error
        self._encoder = self._load_encoder()

    def _load_encoder(self) -> Encoder:
        beside, facts = self._path.parent / TOKENIZER, self._facts
        named = None if facts.tokenizer == REVIEWS else facts.tokenizer
        name = str(beside) if beside.is_dir() else named
        if (found := load_encoder(name).digest) != facts.hash:
            raise InputValueError(
                f"predict: tokenizer={name or REVIEWS!r} is another one ({found}) than the model "
                f"of {str(self._path)!r} was trained with ({facts.hash}); bring that one back, "
                f"into the folder {TOKENIZER!r} beside the file."
            )
        return load_encoder(name, facts.special_tokens)

    def __call__(self, texts: Iterable[str], batch_size: int = 64) -> list[Prediction]:
        """Classify texts, those of like length together.

        Args:
            texts: In any number.
            batch_size: How many at a time, 1 or more.

        Returns:
            In the order of the texts.

        Raises:
            ValueError: If ``batch_size`` is below 1, or the file names other classes than there
                are.
        """
        if batch_size < 1:
            raise InputValueError(f"predict: batch_size={batch_size} is below 1.")
        if not (known := list(texts)):
            return []
        rows = self._rows(known)
        found: dict[int, list[float]] = {}
        for chosen in LengthBatches(rows.lengths, batch_size, shuffle=False):
            batch = rows[chosen]
            with torch.no_grad():
                output = self._logits({k: v for k, v in batch.items() if k != "labels"})
            logits: Any = getattr(output, "logits", output)
            found |= zip(chosen, logits.float().softmax(-1).tolist(), strict=True)
        return [self._prediction(text, found[row]) for row, text in enumerate(known)]

    def _rows(self, texts: Sequence[str]) -> Rows:
        encoder, facts = self._encoder, self._facts
        tokens = encoder.encode([without_line_breaks(text) for text in texts], "texts")
        frame = Frame(
            encoder.prefix, encoder.suffix, encoder.pad, facts.max_length, facts.truncation
        )
        index = torch.arange(len(texts))
        labels = torch.full_like(index, -1)
        return Rows(tokens["ids"], tokens["starts"], index, labels, index, frame)

    def _prediction(self, text: str, probabilities: Sequence[float]) -> Prediction:
        names = self.labels or [str(number) for number in range(len(probabilities))]
        if len(names) != len(probabilities):
            raise InputValueError(
                f"predict: {str(self._path)!r} names {len(names)} classes and has "
                f"{len(probabilities)}; export it with labels= of all of them."
            )
        by_name = dict(zip(names, probabilities, strict=True))
        label = max(by_name, key=lambda name: by_name[name])
        return Prediction(text, label, by_name[label], by_name)


def _opened(path: Path) -> tuple[Logits, Sequence[str], Mapping[str, Any]]:
    """What computes logits, names of the classes, and facts."""
    if path.suffix == PACKED:
        described = describe(path)
        logits = of_module("predict", load(path, packed=True))
        return logits, described["labels"], described["facts"]
    model = OnnxModel(path)
    try:
        labels, facts = (json.loads(model.metadata[name]) for name in ("labels", "facts"))
        if not all(isinstance(name, str) for name in labels):
            raise TypeError("a label is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise InputValueError(
            f"predict: {str(path)!r} was not written by lightning_adls.export: its metadata have "
            f"no labels and facts ({error})."
        ) from error
    return model.logits, labels, facts
