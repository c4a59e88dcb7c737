"""Draw the figures of finished or running labs again, from what their runs have written.

    adls figures lightning_logs/lab1/default
    adls figures lab1/default lab3/default

Each is written into the run's folder, as PNG and as PDF. Nothing is trained or measured.
"""

from collections.abc import Sequence

from lightning_adls.commands.parser import CommandParser


def main(arguments: Sequence[str]) -> None:
    """Draw the figures of each run that is named."""
    parser = CommandParser(
        "RUN [RUN ...]",
        "Draw the figures of runs again, from what they have written.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="A folder such as lightning_logs/lab1/default."
    )
    given = parser.parse_args(arguments)
    # Not before, because --help needs no torch.
    from lightning_adls.labs import cli
    from lightning_adls.labs.drawing import draw
    from lightning_adls.labs.stored import StoredRun

    cli.quiet()
    with cli.refusing():
        for run in [StoredRun.read(run) for run in given.runs]:
            for figure in draw(run):
                print(figure.path)
