"""Asking a hub that cannot be reached."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, is_offline_mode

from lightning_adls import hub
from lightning_adls.data import TextData
from lightning_adls.errors import InputValueError
from lightning_adls.hub import asking_hub
from lightning_adls.models import bert, reuse_weights, sequence_classifier


@pytest.fixture(params=["refuses", "is silent"])
def unreachable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub at a port where nobody listens, or where nobody answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            server.listen(8)
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "_ANSWER_SECONDS", 0.2)
        hub._answers.cache_clear()
        yield endpoint
        hub._answers.cache_clear()


def data(**arguments: Any) -> None:
    TextData(**arguments).prepare_data()


@pytest.mark.parametrize(
    "ask",
    [
        lambda folder: data(dataset="nobody/nothing", tokenizer=folder, cache_dir=folder),
        lambda folder: data(dataset=f"{folder}/x.csv", tokenizer="nobody/nothing"),
        lambda folder: bert(checkpoint="nobody/nothing"),
        lambda folder: sequence_classifier(checkpoint="nobody/nothing"),
        lambda folder: reuse_weights(bert(vocab_size=9, hidden_size=16), "nobody/nothing"),
    ],
    ids=["data", "tokenizer", "bert", "sequence_classifier", "reuse_weights"],
)
def test_whatever_asks_a_hub_out_of_reach_soon_says_that_a_folder_may_be_named(
    ask: Any, unreachable: str, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    from lightning_adls import reviews

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=reviews.tokenizer(), **special).save_pretrained(
        tmp_path
    )
    (tmp_path / "x.csv").write_text("text,label\na,0\nb,1\n")
    began = time.monotonic()
    with pytest.raises(InputValueError, match=f"no network leads to {unreachable}.*folder") as said:
        ask(str(tmp_path))
    assert "\n" not in str(said.value)
    assert time.monotonic() - began < 5


def test_the_hub_is_asked_again_after_a_while(unreachable: str) -> None:
    with asking_hub() as reason:
        assert reason == f"no network leads to {unreachable}"
        assert is_offline_mode()
    assert not is_offline_mode()
    assert not hub._answers(unreachable, -1)


def test_who_is_offline_by_choice_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with asking_hub() as reason:
        assert reason == "HF_HUB_OFFLINE is set"
    assert is_offline_mode()
