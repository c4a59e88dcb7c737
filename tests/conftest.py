"""Small models and data that tests share."""

import gc
import os
import random
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import lightning as L
import postgres
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from lightning_adls.classifier import TextClassifier
from lightning_adls.data import TextData
from lightning_adls.figures import canvas
from lightning_adls.models import bert
from lightning_adls.search import Budget, FormatSpace, Objective
from lightning_adls.transforms import Quantize, Transform

# Property tests draw the same few examples each time, unless `--hypothesis-profile=many` is given.
# How long one takes says nothing on a machine that does something else too.
settings.register_profile("few", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("many", max_examples=1000, deadline=None)
settings.load_profile("few")


# Of the cases of a test, where a sample is asked for.
SAMPLE = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        action="store_true",
        help=f"about {SAMPLE} cases of each test, others of each, and none of those marked long",
    )


def sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """A few cases of each test, spread over all that it has.

    Which they are depends on its name alone: tests over the registry of formats take other ones
    each, and every process takes the same.
    """
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("long"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept: list[pytest.Item] = []
    for name, cases in tests.items():
        stride = -(-len(cases) // SAMPLE)
        kept += cases[crc32(name.encode()) % stride :: stride]
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none, and what takes long unless asked for."""
    if "inductor" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("inductor")]
    if config.option.sample:
        everything, items[:] = list(items), sample(items)
        left = set(items)
        config.hook.pytest_deselected(items=[item for item in everything if item not in left])
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """Keep what imports made out of garbage collections: every Trainer of a Budget asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in reviews are made and tokenised once for all tests."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server; whoever stops it starts it again."""
    if reason := postgres.reason_to_skip():
        pytest.skip(reason)
    with postgres.serving() as server:
        yield server


@pytest.fixture
def database(server: postgres.Server) -> str:
    """The URL of an empty PostgreSQL database."""
    return server.empty()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same numbers in every test, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    """End what Lightning's strategies of several processes leave behind, for the tests after."""
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
    before = {name: os.environ.get(name) for name in names}
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def mlp() -> nn.Sequential:
    """Three linear layers named 0, 2 and head.0."""
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8), nn.Sequential(nn.Linear(8, 2))
    )


@pytest.fixture
def texts(cache_dir: str) -> TextData:
    """A few of the built-in reviews, ready to train on."""
    data = TextData(
        max_length=24,
        limit_train=96,
        limit_val=64,
        limit_test=64,
        cache_dir=cache_dir,
    )
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture
def tiny_bert(texts: TextData) -> nn.Module:
    """A BERT of one layer."""
    return bert(
        vocab_size=texts.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=32,
        max_position_embeddings=24,
    )


@pytest.fixture
def build(texts: TextData) -> Callable[[list[Transform]], L.LightningModule]:
    """Makes a classifier on a fresh one-layer BERT, changed by the transforms it is given."""

    def build(transforms: list[Transform]) -> TextClassifier:
        model = bert(
            vocab_size=texts.vocab_size,
            hidden_size=16,
            num_hidden_layers=1,
            intermediate_size=32,
            max_position_embeddings=24,
        )
        return TextClassifier(model, transforms, learning_rate=1e-3)

    return build


@pytest.fixture
def recipes(
    build: Callable[[list[Transform]], L.LightningModule], texts: TextData, tmp_path: Path
) -> Objective[Quantize]:
    """Sixteen points: a format for the encoder's weights and one for the classifier's."""
    layers = ["bert.encoder.*", "classifier"]
    ranges = {"width": [3, 8], "frac_width": [2, 6]}
    space = FormatSpace.from_templates(layers, {"Integer": {"weight": "Integer"}}, ranges)
    budget = Budget(epochs=1, reports=3, accelerator="cpu")
    return Objective(space, lambda recipe: build([recipe]), texts, budget, tmp_path / "study")


@pytest.fixture
def quick(recipes: Objective[Quantize]) -> Objective[Quantize]:
    """Four points, and nothing is trained."""
    ranges = {"width": [3, 8], "frac_width": [2, 6]}
    space = FormatSpace.from_templates(["*"], {"Integer": {"weight": "Integer"}}, ranges)
    return replace(recipes, space=space, train=False)


@pytest.fixture
def trainer(tmp_path: Path) -> L.Trainer:
    """A Trainer that writes nothing but into ``tmp_path`` and stops after three steps."""
    return L.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def picture() -> bytes:
    """A PNG file of one pixel."""
    content = BytesIO()
    Image.new("L", (1, 1)).save(content, "PNG")
    return content.getvalue()


@contextmanager
def running_in_folder(folder: Path) -> Iterator[Callable[..., int]]:
    """Run scripts in a folder; see ``run``."""

    def written(made: object, path: Path) -> None:
        for suffix in (".png", ".pdf"):
            path.with_suffix(suffix).write_bytes(picture())

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(canvas, "_save", written)

        def run(script: Path, *arguments: str) -> int:
            patch.setattr(sys, "argv", [str(script), *arguments])
            patch.syspath_prepend(str(script.parent))  # as python does for a script
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                return int(end.code or 0)
            return 0

        yield run


@pytest.fixture(scope="session")
def running_in() -> Callable[[Path], AbstractContextManager[Callable[..., int]]]:
    """``run`` in another folder, for what several tests look at."""
    return running_in_folder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Run a script in an empty folder; returns its exit status.

    Its figures are drawn, but to write them, tested in tests/figures, takes longer than many a lab:
    their files hold a picture of one pixel.
    """
    with running_in_folder(tmp_path) as run:
        yield run


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of ``lightning_adls.bench`` is a second later whenever it is read."""
    seconds = count()
    clock = "lightning_adls.bench.instruments.timing.perf_counter"
    monkeypatch.setattr(clock, lambda: next(seconds))


@pytest.fixture
def refused(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a script with wrong input; returns its one line of error."""

    def refused(script: Path, *arguments: str) -> str:
        assert run(script, *arguments) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert not list(Path().glob("lightning_logs/**/*.ckpt")), "something was trained"
        last = printed.err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        return last

    return refused


@pytest.fixture
def backend() -> Iterator[Callable[[Callable[..., Any]], str]]:
    """Registers backends of torch.compile, which are compilers of graphs, for one test."""
    from torch._dynamo.backends.registry import _BACKENDS, _COMPILER_FNS, register_backend

    names: list[str] = []

    def register(compiler: Callable[..., Any]) -> str:
        name = f"planted_{compiler.__name__}"
        register_backend(compiler, name)
        names.append(name)
        return name

    yield register
    for name in names:
        del _BACKENDS[name], _COMPILER_FNS[name]


@pytest.fixture
def x() -> torch.Tensor:
    """Four samples of 16 features."""
    return torch.randn(4, 16)


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def run_with_kills(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call something again and again, each time killed a little later; returns how often.

    It is killed within steps of optimizers, and before and after files take their final names:
    what lies between two of these moments is as if it had been killed at the first.
    """

    def run_with_kills(run: Callable[[], int], seed: int, most: int) -> int:
        moments = random.Random(seed)
        left = 0

        def moment() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        def dangerous(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                moment()
                result = function(*args, **kwargs)
                moment()
                return result

            return wrapped

        kills = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dangerous(Path.replace))
            patch.setattr(torch.optim.AdamW, "step", dangerous(torch.optim.AdamW.step))
            while True:
                left = moments.randint(1, most)
                try:
                    assert run() == 0
                except Killed:
                    kills += 1
                else:
                    return kills

    return run_with_kills
