"""Draw the figures of finished or running labs again, from what their runs have written.

    python scripts/figures.py lightning_logs/lab1/default
    python scripts/figures.py lab1/default lab3/default

Each is written into the run's folder, as PNG and as PDF. Nothing is trained or measured.
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse

from lightning_adls.labs.ending import piping


def main() -> None:
    """Draw the figures of each run that is named."""
    parser = argparse.ArgumentParser(
        description="Draw the figures of runs again, from what they have written."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="A folder such as lightning_logs/lab1/default."
    )
    arguments = parser.parse_args()
    # Not before, because --help needs no torch.
    from lightning_adls.labs import cli
    from lightning_adls.labs.drawing import draw
    from lightning_adls.labs.stored import StoredRun

    cli.quiet()
    with cli.refusing():
        for run in [StoredRun.read(run) for run in arguments.runs]:
            for figure in draw(run):
                print(figure.path)


if __name__ == "__main__":
    with piping():
        main()
