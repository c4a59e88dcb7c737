"""TensorBoard runs, each written anew from rows: curves, tables, figures, choices beside values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from lightning_adls.report import Curve

# By category, by title of a chart, the tags that are drawn together.
Layout = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Session:
    """A row of TensorBoard's HPARAMS; the scalars of its run are the row's metrics.

    Args:
        name: Shown as its trial; rows of one name are taken together.
        choices: The row's other columns.
        status: How it ended; None while it goes on.
    """

    name: str
    choices: Mapping[str, str | float]
    status: Literal["success", "failure"] | None = "success"


def write_run(
    folder: str | Path,
    *,
    curves: Mapping[str, Curve] | None = None,
    times: Sequence[float] | None = None,
    images: Mapping[str, Path] | None = None,
    texts: Mapping[str, str] | None = None,
    histograms: Mapping[str, Tensor] | None = None,
    session: Session | None = None,
    layout: Layout | None = None,
) -> None:
    """Write everything of one TensorBoard run, in place of what it had.

    A reader that has read the run before shows the new content alone.

    Args:
        folder: Of the run; only its event files are replaced.
        curves: Points by tag; x is rounded to a whole step.
        times: Of the points of every curve, seconds since 1970; by default now.
        images: PNG files by tag; those that are not there are left out.
        texts: Markdown by tag.
        histograms: Values by tag.
        session: The run as a row of HPARAMS.
        layout: The first page of CUSTOM SCALARS.
    """
    from torch.utils.tensorboard import SummaryWriter

    remove_run(folder)
    # The step says that everything which was read before is void.
    with SummaryWriter(str(folder), purge_step=0) as writer:
        for tag, curve in (curves or {}).items():
            for place, (x, y) in enumerate(curve):
                writer.add_scalar(tag, y, round(x), walltime=times[place] if times else None)
        for tag, path in (images or {}).items():
            if path.is_file():
                writer.file_writer.add_summary(_image(tag, path))
        for tag, text in (texts or {}).items():
            writer.add_text(tag, text)
        for tag, values in (histograms or {}).items():
            writer.add_histogram(tag, values)
        if layout:
            charts = {
                category: {title: ["Multiline", list(tags)] for title, tags in each.items()}
                for category, each in layout.items()
            }
            writer.add_custom_scalars(charts)
        if session is not None:
            for summary in session_summaries(session):
                writer.file_writer.add_summary(summary)


def remove_run(folder: str | Path) -> None:
    """Remove the event files of a run, and of no run below it."""
    for path in Path(folder).glob("events.out.tfevents.*"):
        path.unlink()


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table under the keys of the first; None is a dash.

    Example:
        >>> print(markdown([{"model": "float32", "accuracy": 0.91234567, "zeros": None}]))
        | model | accuracy | zeros |
        |---|---|---|
        | float32 | 0.91235 | - |
    """
    if not rows:
        return ""
    keys = list(rows[0])
    lines = [keys, *([_text(row.get(key)) for key in keys] for row in rows)]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([table[0], "|" + "---|" * len(keys), *table[1:]])


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "-" if value is None else str(value).replace("|", "\\|")


def _image(tag: str, path: Path) -> object:
    """A PNG file as it is: it need not be read and compressed again."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as picture:
        width, height = picture.size
    image = Summary.Image(
        height=height, width=width, colorspace=4, encoded_image_string=path.read_bytes()
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def session_summaries(session: Session) -> list[object]:
    """What makes a run a row of HPARAMS, for a writer of event files.

    It describes no experiment: TensorBoard takes one such for all runs that it shows. Where there
    is none, it gathers columns and metrics from the rows.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api, api_pb2, metadata, plugin_data_pb2

    summaries: list[object] = [api.hparams_pb(dict(session.choices), trial_id=session.name)]
    if session.status is not None:
        status = api_pb2.Status.Value(f"STATUS_{session.status.upper()}")
        end = plugin_data_pb2.SessionEndInfo(status=status)
        value = Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(
                plugin_data_pb2.HParamsPluginData(session_end_info=end)
            ),
            tensor=metadata.NULL_TENSOR,
        )
        summaries.append(Summary(value=[value]))
    return summaries
