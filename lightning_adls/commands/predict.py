"""Classify texts by an exported model: label and probability of each.

    adls predict lightning_logs/lab3/default/export/MXInt/model.safetensors "The plot was not dull."
    adls predict model.onnx --file reviews.txt --json
    cat reviews.txt | adls predict model.safetensors

The file, packed or of ONNX, and the folder `tokenizer` beside it are all that is read. Texts are
arguments, or lines of a file or of the standard input.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lightning_adls.commands.parser import CommandParser


def main(arguments: Sequence[str]) -> None:
    """Classify the texts that are given."""
    parser = CommandParser(
        "MODEL [TEXT ...] [--file FILE] [--json]",
        "Classify texts by an exported model: label and probability of each.",
    )
    parser.add_argument("model", metavar="MODEL", help="What the command export wrote.")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="A text.")
    parser.add_argument(
        "--file", type=Path, help="A text in each line; without texts, the standard input has them."
    )
    parser.add_argument(
        "--json", action="store_true", help="A line of JSON for each text, with all probabilities."
    )
    given = parser.parse_args(arguments)
    # Not before, because --help needs no torch.
    from lightning_adls.errors import InputValueError
    from lightning_adls.export import Predictor
    from lightning_adls.labs import cli

    cli.quiet()
    with cli.refusing():
        if given.texts and given.file is not None:
            raise InputValueError("predict: texts and --file are given; give one of them.")
        predictor = Predictor(given.model)
        found = predictor(given.texts or lines_of(given.file))
        if not found:
            raise InputValueError("predict: there are no texts; give some, or --file.")
    for each in found:
        if given.json:
            print(json.dumps(asdict(each), ensure_ascii=False))
        else:
            print(f"{each.label}\t{each.probability:.4f}\t{each.text}")


def lines_of(file: Path | None) -> list[str]:
    """The lines of a file, or of the standard input."""
    from lightning_adls.errors import InputValueError

    where = "the standard input" if file is None else str(file)
    try:
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return content.decode("utf-8").splitlines()
    except OSError as error:
        raise InputValueError(f"predict: {where} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputValueError(f"predict: {where} is not text in UTF-8: {error}.") from error
