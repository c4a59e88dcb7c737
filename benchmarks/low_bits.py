"""What few bits cost on real data: accuracy of each format, with and without distillation.

Each seed fine-tunes in float32. Every row of the table goes on from there for some epochs more and
rounds weights and inputs of all linear layers; so does float32 itself, without rounding. A
distilled row also has the fine-tuned network for a teacher. Nothing is chosen by the test split;
each row reads it once. A plan spends its bits by scores of training rows; a one-shot row is what a
search on training rows finds in one training for all widths, trained on alone.

On the built-in reviews, and on data sets of your own, each a YAML file with arguments of TextData:
    python benchmarks/low_bits.py
    python benchmarks/low_bits.py --data imdb sst2 --model prajjwal1/bert-tiny --jobs 4

Each finished job is a line of ``--folder``/jobs.jsonl. The same command continues, repeats nothing
that is finished and tries what failed again. ``--minutes 0`` only prints what is there.
"""

import lightning_adls.labs.waiting  # noqa: F401  # before torch is imported

# isort: split
import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from command_line import machine, positive
from low_bits_jobs import NEEDS, START, Job, Settings, Training, budget
from low_bits_records import Records, Schedule
from low_bits_rows import ROWS
from low_bits_table import NORMAL_95, draw, lines, markdown

from lightning_adls import TextData
from lightning_adls.engines import EngineFailed, make_engine
from lightning_adls.errors import InputValueError, MissingFileError
from lightning_adls.labs.cli import quiet
from lightning_adls.labs.ending import ending, failing, refusing
from lightning_adls.locks import exclusive

CONFIGS = Path(__file__).parents[1] / "configs" / "data"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=["reviews"],
        help="names of files in configs/data, or paths of such files",
    )
    parser.add_argument(
        "--model", help="a BERT and its tokenizer, a folder or a name on the hub; else a small one"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument(
        "--teachers",
        nargs="+",
        choices=("without", "with"),
        default=["without", "with"],
        help="rows without distillation, with it, or both",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--start-epochs", nargs="+", type=float, default=[3.0], help="one, or one per data set"
    )
    parser.add_argument(
        "--epochs", nargs="+", type=float, default=[3.0], help="one, or one per data set"
    )
    parser.add_argument("--learning-rate", type=float, help="3e-4, without --model 1e-3")
    parser.add_argument("--batch", type=positive, default=128, help="rows of a training batch")
    parser.add_argument("--limit", type=positive, help="most rows of each split")
    parser.add_argument("--jobs", type=positive, default=1, help="processes at a time, on any GPU")
    parser.add_argument("--folder", type=Path, default=Path("lightning_logs/low_bits"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin nothing after so long"
    )
    return parser.parse_args()


def arguments_of(name: str, model: str | None) -> tuple[str, dict[str, Any]]:
    """A data set's name, and its arguments of TextData."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        raise MissingFileError(f"low_bits: data={name!r} is no file (looked for {path}).")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if content.get("dataset", "reviews") == "reviews":
        if model is not None:
            raise InputValueError(f"low_bits: data={name!r} has words that model={model!r} lacks.")
        return path.stem, content
    if model is None:
        raise InputValueError(f"low_bits: data={name!r} needs a model; name one.")
    return path.stem, {**content, "tokenizer": model}


def each(name: str, values: list[float], count: int) -> list[float]:
    """A value for each data set."""
    if len(values) not in (1, count):
        raise InputValueError(f"low_bits: {name}={values} are not one, or {count}.")
    return values if len(values) == count else values * count


def settings_of(given: argparse.Namespace) -> Settings:
    """How each data set is trained on."""
    count = len(given.data)
    default = 1e-3 if given.model is None else 3e-4
    epochs = each("epochs", given.epochs, count)
    start_epochs = each("start-epochs", given.start_epochs, count)
    for number in (*epochs, *start_epochs):
        budget(number)  # refuses what is no number of epochs
    rate = default if given.learning_rate is None else given.learning_rate
    if not rate > 0:
        raise InputValueError(f"low_bits: learning-rate={rate} is not above 0.")
    trainings: dict[str, Training] = {}
    for place, text in enumerate(given.data):
        name, arguments = arguments_of(text, given.model)
        if name in trainings:
            raise InputValueError(f"low_bits: data={given.data} has two files named {name!r}.")
        trainings[name] = Training(
            data=arguments,
            model=given.model,
            start_epochs=start_epochs[place],
            epochs=epochs[place],
            learning_rate=rate,
            batch_size=given.batch,
            limit=given.limit,
        )
    return Settings(given.folder, trainings)


def jobs_of(given: argparse.Namespace, settings: Settings) -> list[Job]:
    """All jobs, seed by seed, so that an early end leaves whole seeds.

    Fine-tunings come first: all others wait for them.
    """
    jobs = [Job(data, seed, START) for seed in given.seeds for data in settings.trainings]
    for seed in given.seeds:
        jobs += [Job(data, seed, name) for name in NEEDS for data in settings.trainings]
        jobs += [
            Job(data, seed, name, teacher == "with")
            for name in given.rows
            for data in settings.trainings
            for teacher in given.teachers
        ]
    return list(dict.fromkeys(jobs))


def show(given: argparse.Namespace, settings: Settings, records: Records) -> None:
    """Print the tables and draw the figures."""
    for data, training in settings.trainings.items():
        known = list(lines(records, data, given.rows, given.seeds))
        title = (
            f"{data}: {training.start_epochs:g} epochs in float32, then {training.epochs:g} more"
        )
        print(f"\n{markdown(title, known)}")
        draw(given.folder / f"{data}.png", data, known)
    print(
        "± seeds: standard error of the mean over seeds. ± rows: binomial, of one seed.\n"
        f"95 %: {NORMAL_95} standard errors, of test rows (paired, each row's mean over seeds) and "
        "of seeds."
    )


def main() -> None:
    """Compute what is missing, then print the table."""
    given = parse_arguments()
    settings = settings_of(given)
    given.folder.mkdir(parents=True, exist_ok=True)
    quiet()
    with exclusive(given.folder / "lock"):
        records = Records(given.folder / "jobs.jsonl", settings)
        schedule = Schedule(settings, records, jobs_of(given, settings), given.minutes)
        if schedule.left and given.minutes > 0:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            print(f"{len(schedule.left)} jobs, {given.jobs} at a time; {machine(device)}")
            for training in settings.trainings.values():
                tokenise(training)
            with make_engine(workers=given.jobs, prepare=quiet) as engine:
                engine.run(schedule)
        show(given, settings, records)
    if schedule.failed:
        failed = f"{schedule.failed} of {schedule.total} jobs failed"
        print(f"error: {failed}; {records.path} has their tracebacks.", file=sys.stderr)
        sys.exit(1)


def tokenise(training: Training) -> None:
    """Fill the cache once, with all cores, before many processes want it."""
    data = TextData(**training.data)
    for stage in ("fit", "test"):
        data.setup(stage)


if __name__ == "__main__":
    with ending(), refusing(MissingFileError), failing(EngineFailed):
        main()
