"""TensorBoard runs, each written anew from rows: curves, tables, figures, choices beside values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from struct import unpack
from time import time
from typing import Any, Literal

from torch import Tensor

from lightning_adls.report import Curve

# TensorBoard knows it by its name. Of one name always: a run that was continued has no other files.
FILE = "events.out.tfevents.rows"

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
    images: Mapping[str, Path] | None = None,
    texts: Mapping[str, str] | None = None,
    histograms: Mapping[str, Tensor] | None = None,
    session: Session | None = None,
    layout: Layout | None = None,
) -> None:
    """Write everything of one TensorBoard run, in place of what it had.

    A TensorBoard that shows the run goes on with the new content. It would not if the file were
    replaced: so it grows, by a mark that what came before is void and by all that holds now.

    Args:
        folder: Of the run; its other files are left alone.
        curves: Points by tag; x is rounded to a whole step. The first x of a tag never rises.
        images: PNG files by tag; those that are not there are left out.
        texts: Markdown by tag.
        histograms: Values by tag.
        session: The run as a row of HPARAMS.
        layout: The first page of CUSTOM SCALARS.
    """
    from torch.utils.tensorboard import summary

    found: list[tuple[int, Any]] = [
        (round(x), summary.scalar(tag, y))
        for tag, curve in (curves or {}).items()
        for x, y in curve
    ]
    found += [(0, _image(tag, path)) for tag, path in (images or {}).items() if path.is_file()]
    found += [(0, summary.text(tag, text)) for tag, text in (texts or {}).items()]
    for tag, values in (histograms or {}).items():
        found.append((0, summary.histogram(tag, values.detach().cpu().numpy(), bins=64)))
    if layout:
        charts = {
            category: {title: ["Multiline", list(tags)] for title, tags in each.items()}
            for category, each in layout.items()
        }
        found.append((0, summary.custom_scalars(charts)))
    if session is not None:
        found += [(0, each) for each in session_summaries(session)]
    _append(Path(folder), found)


def _append(folder: Path, summaries: Sequence[tuple[int, Any]]) -> None:
    """Append steps with their summaries to the run's file, after the mark, all in one write."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    events = [
        Event(step=0, session_log=SessionLog(status=SessionLog.START)),
        *(Event(step=step, summary=summary) for step, summary in summaries),
    ]
    whole = _whole_records(path.read_bytes()) if path.exists() else 0
    if not whole:
        events.insert(0, Event(file_version="brain.Event:2"))
    buffer, now = BytesIO(), time()
    writer = RecordWriter(buffer)
    for event in events:
        event.wall_time = now
        writer.write(event.SerializeToString())
    with path.open("ab") as file:
        # A power cut leaves a torn record, after which nothing would be read.
        file.truncate(whole)
        file.write(buffer.getvalue())


def _whole_records(content: bytes) -> int:
    """Bytes of the records that are complete: length, its checksum, data, their checksum."""
    end = 0
    while end + 12 <= len(content):
        (length,) = unpack("<Q", content[end : end + 8])
        if end + 16 + length > len(content):
            break
        end += 16 + length
    return end


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
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

    summaries: list[object] = [summary_v2.hparams_pb(dict(session.choices), trial_id=session.name)]
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
