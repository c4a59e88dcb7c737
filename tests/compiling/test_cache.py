"""What one process compiles, another finds on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_adls.compiling import keep_on_disk

# A format that rounds each number by itself, and one of blocks.
PROGRAM = """
import json, sys
import torch
from torch import nn
from torch._dynamo.utils import counters
from lightning_adls import Quantize
from lightning_adls.compiling import compile_layers

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    def forward(self, x):
        for linear in self.linears:
            x = linear(x)
        return x

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

torch.manual_seed(0)
x = torch.randn(3, 5, 8, requires_grad=True)
found = []
for width in json.loads(sys.argv[1]):
    counters.clear()
    network = Network()
    formats = f"Integer(width={width})", "MXInt(width=4)"
    for n, text in enumerate(formats):
        Quantize({f"*.linears.{n}": {"input": text, "weight": text}})(network)
    eager = network(x)
    compile_layers(network)
    compiled = network(x)
    compiled.square().sum().backward()
    torch.testing.assert_close(compiled, eager)
    names = ("fxgraph_cache_hit", "fxgraph_cache_miss", "fxgraph_cache_bypass")
    aot = ("autograd_cache_hit", "autograd_cache_miss", "autograd_cache_bypass")
    found.append({
        **{name: counters["inductor"][name] for name in names},
        **{name: counters["aot_autograd"][name] for name in aot},
    })
print(json.dumps(found))
"""


def run(cache: Path, *widths: int) -> list[dict[str, Any]]:
    """Train one step in a process of its own; what its caches count, for each width."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(widths)],
        env={**environment, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


@pytest.mark.long
def test_a_second_process_compiles_nothing_but_what_is_new(tmp_path: Path) -> None:
    (first,) = run(tmp_path, 4)
    assert (first["autograd_cache_miss"], first["autograd_cache_bypass"]) == (1, 0)
    assert (first["fxgraph_cache_miss"], first["fxgraph_cache_bypass"]) == (2, 0)
    same, other = run(tmp_path, 4, 3)
    assert (same["autograd_cache_hit"], same["autograd_cache_miss"]) == (1, 0)
    assert (same["fxgraph_cache_hit"], same["fxgraph_cache_miss"]) == (2, 0)
    # A format of the same code and other numbers; the program compares it with eager, too.
    assert (other["autograd_cache_hit"], other["autograd_cache_miss"]) == (0, 1)
    assert (tmp_path / "lightning_adls" / "compiled").is_dir()


def test_the_folder_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert keep_on_disk() == tmp_path / "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert keep_on_disk() == tmp_path / "xdg" / "lightning_adls" / "compiled"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(keep_on_disk())
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
