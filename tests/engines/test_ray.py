"""Workers of a Ray cluster of two nodes, both on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import calls
import optuna
import pytest
from calls import Listed
from gone import wait_until_gone
from optuna.pruners import BasePruner, NopPruner, ThresholdPruner

from lightning_adls import search
from lightning_adls.engines import (
    Call,
    Engine,
    EngineFailed,
    Lost,
    Ray,
    Serial,
    Shared,
    cluster,
    make_engine,
)
from lightning_adls.errors import MissingPackageError
from lightning_adls.labs.ending import failing
from lightning_adls.search import BaseObjective
from lightning_adls.search.checkpoints import offered_at
from lightning_adls.search.samplers import SAMPLERS

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.long

HERE = Path(__file__).parent
# Ray takes half a minute by default to see that a node is gone.
QUICK = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


@dataclass
class Nodes:
    """A head and another node, of one core each; the other one can be killed."""

    cluster: Any
    second: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Workers have the path of their node, not that of their driver.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20}
        made = Cluster(
            initialize_head=True,
            head_node_args={**options, "include_dashboard": False, "_system_config": QUICK},
        )
        yield Nodes(made, made.add_node(**options))
        made.shutdown()


def on(nodes: Nodes, workers: int = 2, **options: Any) -> Engine:
    return make_engine("ray", workers, ray=Ray(nodes.address, **options))


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> Iterator[Engine]:
    with on(nodes) as made:
        yield made


def test_every_call_is_computed_once_and_workers_are_kept(engine: Engine) -> None:
    driver = Listed(calls.square, range(12))
    engine.run(driver)
    squares = {name: square for name, (square, _) in driver.results.items()}
    assert squares == {str(n): n**2 for n in range(12)}
    again = Listed(calls.square, range(4))
    engine.run(again)
    pids = {pid for each in (driver, again) for _, pid in each.results.values()}
    assert len(pids) <= 2
    assert set(driver.workers) <= {1, 2}


def test_calls_speak_with_the_driver_and_hear_its_answers(engine: Engine) -> None:
    driver = Listed(calls.asks, [1, 5])
    engine.run(driver)
    assert driver.results == {"1": 2 + 4, "5": 10 + 12}
    assert [said for name, said in driver.said if name == "1"] == [101, 1, 2]


def test_what_calls_share_is_read_once_by_each_worker(engine: Engine) -> None:
    driver = Listed(calls.read_by, range(8), calls.Counted())
    engine.run(driver)
    assert {count for _, count in driver.results.values()} == {1}


def test_a_worker_has_the_threads_of_its_cores_and_sees_no_gpu_that_it_was_not_given(
    engine: Engine,
) -> None:
    names = ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES"]
    driver = Listed(calls.environment, [0], names)
    engine.run(driver)
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    assert driver.results["0"] == dict(zip(names, [threads, "PASSIVE", "3000", ""], strict=True))


# Searches.


@dataclass(frozen=True)
class Numbers:
    """Nine points."""

    @property
    def points(self) -> int:
        return 9

    def grid(self) -> dict[str, list[Any]]:
        return {"x": ["0", "1", "2"], "y": ["0", "1", "2"]}

    def suggest(self, trial: Any) -> int:
        x, y = (trial.suggest_categorical(name, each) for name, each in self.grid().items())
        return 3 * int(x) + int(y)

    def read(self, choice: Mapping[str, Any]) -> int:
        return int(choice["number"])

    def to_dict(self) -> dict[str, Any]:
        return {"numbers": 9}


@dataclass(frozen=True)
class Stub(BaseObjective[Any]):
    """Judges a number by itself, and leaves weights if they may be the best."""

    folder: Path
    space: Any = Numbers()

    def __call__(self, trial: Any) -> float:
        number = self.space.suggest(trial)
        for step in (50, 100):
            trial.report(number, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("where", str(Path.cwd()))
        if trial.may_be_best(number):
            path = offered_at(self.folder, trial.number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"weights of {number}")
        return float(number)


def searched(
    folder: Path, engine: Engine, sampler: str, pruner: BasePruner | None = None, trials: int = 9
) -> Any:
    study = optuna.create_study(direction="maximize", pruner=pruner or NopPruner())
    made: Any = Stub(folder)
    mine = search.Search(study, made, SAMPLERS[sampler], trials, engine=engine)
    mine.run()
    return mine


def found(mine: Any) -> list[tuple[Any, ...]]:
    trials = sorted(mine.study.trials, key=lambda trial: trial.user_attrs["index"])
    return [(trial.user_attrs["index"], trial.params, trial.state, trial.value) for trial in trials]


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("random", None), ("grid", None), ("grid", partial(ThresholdPruner, lower=4))],
)
def test_a_search_finds_what_one_process_finds(
    engine: Engine, tmp_path: Path, sampler: str, pruner: Any
) -> None:
    here = searched(tmp_path / "serial", Serial(), sampler, pruner and pruner())
    there = searched(tmp_path / "ray", engine, sampler, pruner and pruner())
    assert found(there) == found(here)
    assert there.best.params == here.best.params
    assert [path.name for path in (tmp_path / "ray").iterdir() if path.suffix == ".ckpt"] == [
        here.best.user_attrs["checkpoint"]
    ]
    if pruner:
        assert {trial.state.name for trial in there.study.trials} == {"COMPLETE", "PRUNED"}


def test_files_come_home_from_nodes_that_do_not_see_the_folder(
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "touch", lambda path, **_: None)  # so no worker sees the token
    mine = searched(Path("mine"), engine, "grid")
    assert str(tmp_path) not in {trial.user_attrs["where"] for trial in mine.counted}
    best = Path("mine", mine.best.user_attrs["checkpoint"])
    assert best.read_text() == "weights of 8"
    assert [path.name for path in Path("mine").glob("*")] == [best.name]
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if "does not see this folder" in each]) == 1

    # And what a call needs goes there.
    Path("mine", "source").write_text("content")
    driver = Listed(calls.read, [0])
    shared = Shared(None, Path("mine"))
    driver.left = [Call("0", calls.read, shared, Path("mine", "source"), [Path("mine", "source")])]
    engine.run(driver)
    content, where = driver.results["0"]
    assert content == "content"
    assert where != tmp_path
    shutil.rmtree(where)


def test_a_folder_is_probed_with_a_file_that_does_not_stay(engine: Engine, tmp_path: Path) -> None:
    driver = Listed(calls.read, [])
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        driver.left = [Call(folder.name, calls.read, Shared(None, folder), HERE / "calls.py")]
        engine.run(driver)
    assert driver.results["second"] == ((HERE / "calls.py").read_text(), Path.cwd())
    assert not list(first.iterdir())
    assert len(list(second.iterdir())) == 1


# What goes wrong.


def test_what_a_call_raises_comes_up_and_the_engine_can_be_used_again(engine: Engine) -> None:
    driver = Listed(calls.square, range(8))
    engine.run(driver)
    with pytest.raises(KeyError, match="the third") as raised:
        engine.run(Listed(calls.raises, range(4)))
    assert "in raises" in "".join(raised.value.__notes__)
    assert wait_until_gone({pid for _, pid in driver.results.values()})
    driver = Listed(calls.square, [3])
    engine.run(driver)
    assert driver.results["3"][0] == 9


def test_a_call_is_computed_by_another_worker_where_its_own_dies(
    engine: Engine, tmp_path: Path
) -> None:
    driver = Listed(calls.dies_once, range(3), tmp_path)
    engine.run(driver)
    assert driver.results == {str(n): n for n in range(3)}


def test_a_call_that_kills_its_worker_each_time_is_given_up_and_the_others_are_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TRIES", 2)
    monkeypatch.setattr(cluster, "MOST_STILLBORN", 2)
    driver = Listed(calls.dies, range(3))
    engine.run(driver)
    assert isinstance(driver.results.pop("1"), Lost)
    assert driver.results == {"0": 0, "2": 2}


def test_nothing_is_lost_with_a_node_and_one_that_joins_is_used(
    nodes: Nodes, engine: Engine
) -> None:
    seen: list[str] = []
    more = count(1000)

    class Killing(Listed):
        """Kills a node in the middle of a call, starts another one, and ends when it is used."""

        def next(self) -> Call | None:
            if not self.left and len({*seen}) < 3:
                number = next(more)  # two workers may be free before one has ended
                self.left.append(Call(str(number), calls.slowly, Shared(None), number))
            return super().next()

        def heard(self, call: Call, message: Any) -> Any:
            known = {*seen}
            seen.append(message)
            if message == nodes.second.node_id and message not in known:
                nodes.cluster.remove_node(nodes.second, allow_graceful=False)
                nodes.second = nodes.cluster.add_node(
                    num_cpus=1, num_gpus=0, object_store_memory=100 * 2**20
                )
                self.killed = call.name

    driver = Killing(calls.slowly, range(20))
    engine.run(driver)
    assert {int(name): number for name, number in driver.results.items()} == {
        number: number for number in driver.results.values()
    }
    assert {*range(20)} <= {*driver.results.values()}
    assert driver.killed in driver.results


DRIVER = """
import sys
from pathlib import Path
from lightning_adls.engines import Ray, make_engine
sys.path.insert(0, {here!r})
from calls import Listed

def waits(shared, number, channel):
    import os, time
    channel.tell(os.getpid())
    time.sleep(60)

class Printing(Listed):
    def heard(self, call, message):
        print("pid", message, flush=True)

with make_engine("ray", 2, ray=Ray({address!r})) as engine:
    engine.run(Printing(waits, range(2)))
"""


def test_no_worker_outlives_its_driver(nodes: Nodes, engine: Engine) -> None:
    engine.close()  # whose workers have all cores
    code, pids = DRIVER.format(here=str(HERE), address=nodes.address), set[int]()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        while len(pids) < 2 and (line := driver.stdout.readline()):
            if line.startswith("pid "):  # Ray tells, too
                pids.add(int(line.split()[1]))
        driver.kill()
    assert len(pids) == 2
    assert wait_until_gone(pids)


def test_workers_that_cannot_start_are_one_sentence(
    nodes: Nodes, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.close()
    monkeypatch.setattr(cluster, "MOST_STILLBORN", 2)
    with (
        make_engine("ray", 1, prepare=calls.refuses, ray=Ray(nodes.address)) as engine,
        pytest.raises(EngineFailed, match=r"died, one after another, before .*no licence"),
    ):
        engine.run(Listed(calls.square, [1]))


def test_an_engine_does_not_wait_for_ever_for_room(nodes: Nodes, engine: Engine) -> None:
    engine.close()
    made = on(nodes, 1, patience=1)
    others = [ray.remote(calls.Counted).options(num_cpus=1).remote() for _ in range(2)]
    with made, pytest.raises(EngineFailed, match=r"1 s: .* has 2 x 1 CPUs .*, free are 0 CPUs"):
        made.run(Listed(calls.square, [1]))
    del others


def test_a_cluster_in_which_no_worker_has_room_is_refused(nodes: Nodes, engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"num_cpus=64 .* in a cluster of 2 x 1 CPUs and 0 GPUs"):
        on(nodes, num_cpus=64)
    with pytest.raises(ValueError, match=r"num_gpus=1 has no room"):
        on(nodes, num_gpus=1)
    with pytest.raises(ValueError, match=r"num_cpus=1000 .* has no room"):
        make_engine("ray", 1, ray=Ray(num_cpus=1000))


@pytest.mark.parametrize(
    ("address", "what"),
    [("127.0.0.1:1", "nobody answers"), ("here", "neither 'auto'"), ("ray://a:1", "neither")],
)
def test_an_address_without_a_cluster_is_refused(engine: Engine, address: str, what: str) -> None:
    engine.close()
    with pytest.raises(ValueError, match=what):
        make_engine("ray", 1, ray=Ray(address))


SCRIPTS = HERE.parents[1] / "scripts"


@pytest.mark.parametrize("script", ["lab1_compression.py", "lab3_mixed_precision.py"])
def test_labs_say_what_is_wrong_with_a_cluster_in_one_line(
    refused: Callable[..., str], engine: Engine, script: str
) -> None:
    engine.close()
    line = refused(SCRIPTS / script, "--engine", "ray", "--ray.address", "127.0.0.1:1")
    assert line.startswith("error: ray.address='127.0.0.1:1': nobody answers there")
    line = refused(SCRIPTS / script, "--engine", "ray", "--ray.num_cpus", "-1")
    assert "num_cpus=-1 is below 0" in line


def test_a_lab_whose_workers_cannot_be_had_ends_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended, failing(EngineFailed):
        raise EngineFailed("Engine: no worker has begun.")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: no worker has begun.\n"


@pytest.mark.parametrize("options", [{"num_cpus": -1}, {"num_gpus": -1}, {"num_cpus": 0}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Ray: num_"):
        Ray(**options)  # type: ignore[arg-type]


def test_a_process_has_one_cluster(nodes: Nodes, engine: Engine) -> None:
    engine.run(Listed(calls.square, [1]))
    with pytest.raises(ValueError, match=f"is connected to '{nodes.address}' already"):
        make_engine("ray", 1, ray=Ray("127.0.0.1:1"))


def test_a_ray_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"run pip install 'ray>=2\.50'"):
        make_engine("ray", 2)
