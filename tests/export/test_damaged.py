"""A file that was damaged or made up loads or is refused in a sentence; it never does more.

A thousand files by default; ``EXPORT_FUZZ=100000`` tries that many.
"""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import Net, net
from torch import nn

from lightning_adls.errors import InputValueError
from lightning_adls.export import describe, load, save
from lightning_adls.models import bert
from lightning_adls.transforms import Prune, Quantize

COUNT = int(os.environ.get("EXPORT_FUZZ", "1000"))
JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**62, 2**63, 10**30, 0.5, "", "x", [], {}, [[]]),
    *([-1], [2**62, 2**62], {"a": 1}, "MXInt(width=8, block_size=(4000000000, 1))", "F64", "U8"),
    *("Integer(width=32)", "ResidualSign(levels=16, scale=per_channel)", "Binary", "bits", "mase"),
)


def tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 6))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Codes with shared exponents, a mask in bits, scales, and a weight in full."""
    torch.manual_seed(0)
    model = tiny().eval()
    Prune(0.5, layers=("0",))(model)
    Quantize({"0": "MXInt(width=4, block_size=4)", "1": {"weight": "Ternary(scale=per_channel)"}})(
        model
    )
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    save(model, path, accuracy=0.5)
    return path.read_bytes()


def bytes_flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 8))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def header_flipped(content: bytes, draw: random.Random) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    return bytes_flipped(content[:end], draw) + content[end:]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def lengthened(content: bytes, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.randrange(1, 100))


def number_changed(content: bytes, draw: random.Random) -> bytes:
    """One number of the header, or of the texts within it, becomes another."""
    end = 8 + int.from_bytes(content[:8], "little")
    text = content[8:end].decode()
    found = draw.choice(list(re.finditer(r"\d+", text)))
    number = str(draw.choice((0, 1, 2, 3, 7, 2**31, 2**62, 2**63, 10**30, "-1", "1e400")))
    return with_header((text[: found.start()] + number + text[found.end() :]).encode(), content)


def node_changed(content: bytes, draw: random.Random) -> bytes:
    """Something in the header, or in the texts within it, is left out or becomes junk."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    texts = header["__metadata__"]
    key = draw.choice([None, *(key for key, text in texts.items() if text[0] in "{[")])
    if key is None:
        change(header, draw)
    else:
        inner = json.loads(texts[key])
        change(inner, draw)
        texts[key] = json.dumps(inner)
    return with_header(json.dumps(header).encode(), content)


def change(node: Any, draw: random.Random) -> None:
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = draw.choice(keys)
    if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
        change(node[key], draw)
    elif draw.random() < 0.3:
        del node[key]
    else:
        node[key] = draw.choice(JUNK)


def with_header(header: bytes, content: bytes) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    return len(header).to_bytes(8, "little") + header + content[end:]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(bytes_flipped, header_flipped, cut, lengthened, number_changed, node_changed, node_changed),
)


def test_a_damaged_file_loads_or_is_refused_in_a_sentence(whole: bytes, tmp_path: Path) -> None:
    path, network, messages = tmp_path / "a.safetensors", tiny(), list[str]()
    for seed in range(COUNT):
        draw = random.Random(seed)
        path.write_bytes(draw.choice(DAMAGES)(whole, draw))
        try:
            if seed % 8:
                describe(path)
            else:
                load(path, tiny if seed % 16 else network, packed=bool(seed % 3))
        except InputValueError as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed} ended in {error!r}") from error
    assert COUNT // 4 < len(messages) < COUNT
    assert not [message for message in messages if "\n" in message]


def test_a_start_of_a_file_is_never_a_file(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputValueError):
            describe(path)


BLOCKS = "MXInt(width=4, block_size=(4000000000, 4))"


def changed(whole: bytes, name: str, old: str, new: str) -> bytes:
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    text = header["__metadata__"][name]
    assert old in text
    header["__metadata__"][name] = text.replace(old, new)
    return with_header(json.dumps(header).encode(), whole)


MADE_UP = {
    "endless blocks": ("weights", "block_size=4)", f"block_size={2**62})"),
    "blocks": ("weights", "MXInt(width=4, block_size=4)", BLOCKS),
    "another format": ("weights", "Ternary(scale=per_channel)", "Ternary(scale=per_tensor)"),
    "kept": ("weights", '"kept":36', '"kept":37'),
    "a dtype of no weight": ("weights", '"dtype":"F32"', '"dtype":"U8"'),
    "a name twice": ("tied", "{}", '{"0.weight":"1.weight"}'),
    "a name of nothing": ("tied", "{}", '{"2.weight":"3.weight"}'),
    "a version": ("lightning_adls.export", "1", "2"),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_what_is_made_up_is_refused(name: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(changed(whole, *MADE_UP[name]))
    with pytest.raises(InputValueError, match="export: "):
        load(path, tiny)


NETWORKS = {
    "layers without end": ('"num_hidden_layers": 1,', '"num_hidden_layers": 1000000000,'),
    "a huge layer": ('"intermediate_size": 24,', '"intermediate_size": 100000000000,'),
    "another size": ('"intermediate_size": 24,', '"intermediate_size": 32,'),
    "no size": ('"intermediate_size": 24,', '"intermediate_size": "x",'),
    "another class": ("BertForSequenceClassification", "BertForMaskedLM"),
    "no class": ("transformers.models.bert.modeling_bert.BertForSequenceClassification", "os"),
    "a function": (
        "transformers.models.bert.modeling_bert.BertForSequenceClassification",
        "pipeline",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_description_of_another_network_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
    save(bert(vocab_size=40, **sizes), path)  # type: ignore[arg-type]
    old, new = NETWORKS[name]
    path.write_bytes(changed(path.read_bytes(), "network", old.replace(": ", ":"), new))
    state = torch.random.get_rng_state()
    with pytest.raises(InputValueError, match=r"^(export|rebuild): ") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_codes_for_a_layer_that_does_not_round_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(net("MXInt(width=4)"), path)
    text = describe(path)["layers"]["conv"]
    assert text["weight"] == "MXInt(width=4, block_size=32)"
    changed_text = changed(path.read_bytes(), "layers", '"kind":"Conv1d"', '"kind":"Linear"')
    path.write_bytes(changed_text)
    with pytest.raises(InputValueError, match="conv"):
        load(path, Net)
