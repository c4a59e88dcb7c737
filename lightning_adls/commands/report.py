"""Write the lab report of a finished run, or of several side by side.

    adls report lightning_logs/lab1/default
    adls report lab3/default lab3/low_bit

`report.md` has Setup, Results, Observations, Conclusion, Key takeaways and References. Write
between its marks and call this again: then `report.html` has what you wrote, too.
"""

from collections.abc import Sequence
from pathlib import Path

from lightning_adls.commands.parser import CommandParser


def main(arguments: Sequence[str]) -> None:
    """Write the report of the runs that are named."""
    parser = CommandParser(
        "RUN [RUN ...] [--folder FOLDER]",
        "Write the lab report of a finished run, or of several side by side.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="A folder such as lightning_logs/lab1/default."
    )
    parser.add_argument("--folder", type=Path, help="Where; by default that of the run.")
    given = parser.parse_args(arguments)
    # Not before, because --help needs no torch.
    from lightning_adls.labs import cli
    from lightning_adls.labs.lab_report import write_report
    from lightning_adls.labs.stored import StoredRun

    cli.quiet()
    with cli.refusing():
        for path in write_report([StoredRun.read(run) for run in given.runs], given.folder):
            print(path)
