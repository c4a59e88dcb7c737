"""Export a model that a run left behind, and compare what was written with it.

    adls export --run lab3/default --study MXInt
    adls export --run lab3/default --study Integer --to packed onnx compressed_tensors
    adls export --checkpoint lightning_logs/train/version_0/checkpoints/best.ckpt --to onnx

Into `export/<study>` of the run. Names of the classes, accuracies and how texts become tokens go
into each file, the tokenizer beside it, so that `adls predict` needs nothing else. Then all are
asked for the validation rows.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_adls.commands.parser import CommandParser


def main(arguments: Sequence[str]) -> None:
    """Export one model for one engine or several."""
    parser = CommandParser(
        "(--run RUN [--study STUDY] | --checkpoint FILE) [--to TARGET ...] [--split {val,test}] "
        "[--folder FOLDER]",
        "Export a model that a run left behind, and compare what was written with it.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="One of labs 0 to 3, such as lightning_logs/lab3/default.")
    source.add_argument("--checkpoint", type=Path, help="One that the command train wrote.")
    parser.add_argument(
        "--study", help="Which of the run's best models; by default the most accurate."
    )
    parser.add_argument(
        "--to",
        nargs="+",
        metavar="TARGET",
        default=["packed"],
        help="Some of packed (our own file; the default), onnx, program (of torch.export) and "
        "compressed_tensors.",
    )
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="Rows to compare on."
    )
    parser.add_argument("--folder", type=Path, help="Where; by default export/STUDY of the run.")
    given = parser.parse_args(arguments)
    # compressed-tensors draws bars, also for what takes a moment. With this, which tqdm reads when
    # it is imported, they come where it takes more than so many seconds.
    os.environ.setdefault("TQDM_DELAY", "10")
    # Not before, because --help needs no torch.
    from rich.console import Console

    from lightning_adls.errors import InputValueError
    from lightning_adls.labs import cli, exporting, trained
    from lightning_adls.labs.stored import StoredRun

    cli.quiet()
    console = Console()
    with cli.refusing():
        exporting.check_targets(given.to)
        if given.checkpoint is not None:
            if given.study is not None:
                raise InputValueError("study= is for a --run; a checkpoint is of one model.")
            model = trained.of_checkpoint(given.checkpoint)
        else:
            model = trained.of_run(StoredRun.read(given.run), given.study)
        folder = given.folder or exporting.folder_of_export(model)
        files, refused = dict[str, Path](), list[InputValueError]()
        for target in dict.fromkeys(given.to):
            try:
                files[target] = exporting.write(model, folder, target)
            except InputValueError as error:
                refused.append(error)
        if files:
            rows = exporting.compare(model, files, folder, given.split)
            console.print(exporting.described(model), highlight=False, soft_wrap=True)
            for path in files.values():
                console.print(str(path), highlight=False, soft_wrap=True)
            console.print(exporting.shown(rows, given.split))
        for each in refused[:-1]:
            print(f"error: {cli.shown(str(each))}", file=sys.stderr)
        if refused:
            raise refused[-1]
