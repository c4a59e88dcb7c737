"""TensorBoard runs, as TensorBoard itself reads them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from lightning_adls.events import FILE, Session, write_run


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_run_is_replaced_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    write_run(tmp_path, curves={"front": [(3, 0.5), (9, 0.9)]})
    write_run(tmp_path / "below", curves={"front": [(1, 0.1)]})
    (tmp_path / "weights.ckpt").touch()
    write_run(tmp_path, curves={"front": [(4, 0.75)]})
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("front")] == [(4, 0.75)]
    assert len(list(tmp_path.glob("events*"))) == 1
    assert (tmp_path / "weights.ckpt").exists()
    assert [(e.step, e.value) for e in read(tmp_path / "below").Scalars("front")] == [
        (1, pytest.approx(0.1))
    ]


def test_a_reader_that_goes_on_shows_the_new_content_alone(tmp_path: Path) -> None:
    write_run(tmp_path, curves={"front": [(3, 0.5), (9, 0.9)]})
    events = read(tmp_path)
    write_run(tmp_path, curves={"front": [(4, 0.75)]})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("front")] == [(4, 0.75)]


def test_a_record_that_a_power_cut_tore_does_not_hide_what_follows(tmp_path: Path) -> None:
    write_run(tmp_path, curves={"best": [(1, 0.5)]})
    whole = (tmp_path / FILE).stat().st_size
    write_run(tmp_path, curves={"best": [(1, 0.5), (2, 0.75)]})
    content = (tmp_path / FILE).read_bytes()
    for size in (whole + 4, len(content) - 3):
        (tmp_path / FILE).write_bytes(content[:size])
        write_run(tmp_path, curves={"best": [(1, 0.5), (2, 0.25)]})
        assert [(e.step, e.value) for e in read(tmp_path).Scalars("best")] == [(1, 0.5), (2, 0.25)]


def test_figures_are_shown_as_they_are_and_missing_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    Image.new("RGB", (6, 4), (0, 99, 0)).save(path)
    write_run(tmp_path / "run", images={"figure": path, "none": tmp_path / "none.png"})
    events = read(tmp_path / "run")
    assert events.Tags()["images"] == ["figure"]
    (image,) = events.Images("figure")
    assert (image.width, image.height) == (6, 4)
    assert image.encoded_image_string == path.read_bytes()


def test_texts_histograms_and_layouts_are_there(tmp_path: Path) -> None:
    layout = {"Lab": {"accuracy": ["val/accuracy"]}}
    histograms = {"rounded/0": torch.tensor([0.0, 1.0, 1.0])}
    write_run(tmp_path, texts={"table": "| a |"}, histograms=histograms, layout=layout)
    events = read(tmp_path)
    assert events.Tensors("table/text_summary")[0].tensor_proto.string_val == [b"| a |"]
    assert events.Histograms("rounded/0")[0].histogram_value.num == 3
    assert (
        b"val/accuracy" in events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )


@pytest.mark.parametrize("status", ["success", "failure"])
def test_a_row_of_hparams_has_its_choices_and_describes_no_experiment(
    tmp_path: Path, status: str
) -> None:
    choices: dict[str, str | float] = {"format": "MXInt(width=4)", "bits": 4}
    write_run(tmp_path, session=Session("a/1", choices, status))  # type: ignore[arg-type]
    content = read(tmp_path).PluginTagToContent("hparams")
    assert metadata.EXPERIMENT_TAG not in content
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.group_name == "a/1"
    assert start.hparams["format"].string_value == "MXInt(width=4)"
    assert start.hparams["bits"].number_value == 4
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == {"success": 1, "failure": 2}[status]
