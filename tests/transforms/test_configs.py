"""Transforms as data: written to a file, read back, and nothing else read."""

import json
from dataclasses import is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_adls import transforms
from lightning_adls.formats import Integer, MXInt, NumberFormat
from lightning_adls.layers import BACKENDS, KINDS, formats_of
from lightning_adls.transforms import Drop, LoRA, Pack, Prune, PruneStructured, Quantize
from lightning_adls.transforms.configs import TRANSFORMS, AnyTransform, describe, read

shares = st.floats(0, 1, exclude_max=True)
names = st.lists(st.text(min_size=1), min_size=1, max_size=3)
seeds = st.integers(0, 2**63)
kinds = st.lists(st.sampled_from(list(KINDS)), min_size=1)
formats = st.sampled_from([None, *(str(cls()) for cls in NumberFormat.classes.values())])
choices = st.one_of(
    formats, st.fixed_dictionaries({}, optional=dict.fromkeys(("input", "weight", "bias"), formats))
)
ARGUMENTS: dict[type[AnyTransform], st.SearchStrategy[Any]] = {
    Drop: st.builds(Drop, names),
    LoRA: st.builds(
        LoRA,
        layers=names.map(tuple),
        rank=st.integers(1, 64),
        alpha=st.floats(0.1, 64),
        dropout=shares,
        trainable=names.map(tuple),
    ),
    Pack: st.builds(Pack, names),
    Prune: st.builds(
        Prune,
        shares,
        st.sampled_from(["l1", "random"]),
        st.sampled_from(["local", "global"]),
        names,
        kinds,
        shares,
        seeds,
    ),
    PruneStructured: st.builds(
        PruneStructured, shares, shares, st.sampled_from(["l1", "random"]), seeds
    ),
    Quantize: st.builds(
        Quantize,
        st.dictionaries(st.text(min_size=1), choices, min_size=1),
        kinds,
        st.sampled_from([name for name in BACKENDS if name != "chop"]),
        st.booleans(),
    ),
}


def test_all_transforms_of_the_package_are_known() -> None:
    modules = [
        import_module(f"{transforms.__name__}.{info.name}")
        for info in iter_modules(transforms.__path__)
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and "__call__" in vars(value)
        if value.__module__.startswith(transforms.__name__)
    }
    assert found == set(TRANSFORMS.values()) == set(ARGUMENTS)
    for path, transform in TRANSFORMS.items():
        assert path == f"{transforms.__name__}.{transform.__name__}"
        assert getattr(transforms, transform.__name__) is transform


@given(st.one_of(*ARGUMENTS.values()))
def test_a_transform_is_read_back_as_it_was(transform: AnyTransform) -> None:
    description = describe(transform)
    for kept in (
        json.loads(json.dumps(description)),
        yaml.safe_load(yaml.safe_dump(description, sort_keys=False)),
    ):
        again = read(kept)
        assert again == transform
        assert str(again) == str(transform)  # the order of patterns, too
        assert describe(again) == description


@pytest.mark.parametrize("transform", [LoRA(), Pack(), PruneStructured(), Prune(0.5)], ids=str)
def test_arguments_that_are_left_out_have_their_defaults(transform: AnyTransform) -> None:
    path, required = describe(transform)["class_path"], {}
    if isinstance(transform, Prune):
        required = {"init_args": {"sparsity": 0.5}}
    assert read({"class_path": path, **required}) == transform


def test_patterns_keep_their_order() -> None:
    recipe = Quantize({"*": "Integer(width=8)", "2": "MXInt(width=4)"})
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    read(json.loads(json.dumps(describe(recipe))))(model)
    assert [formats_of(model[n]).weight for n in (0, 2)] == [Integer(width=8), MXInt(width=4)]


@pytest.mark.parametrize("other", [nn.Linear(2, 2), "Prune(0.5)", lambda model: None, Prune])
def test_other_objects_have_no_description(other: Any) -> None:
    with pytest.raises(ValueError, match=r"^describe: transform=.* is of none of the classes"):
        describe(other)


def test_a_subclass_of_the_users_has_no_description() -> None:
    class Mine(Prune):
        pass

    with pytest.raises(ValueError, match=r"^describe: transform=.*Mine"):
        describe(Mine(0.5))


PRUNE = "lightning_adls.transforms.Prune"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (None, "is not a mapping of 'class_path'"),
        ("lightning_adls.transforms.Pack", "is not a mapping"),
        ({}, "is not a mapping"),
        ({"init_args": {}}, "is not a mapping"),
        ({"class_path": PRUNE, "init_args": [0.5]}, "is not a mapping"),
        ({"class_path": PRUNE, "init_args": {"sparsity": 0.5}, "seed": 1}, "is not a mapping"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "'os.system' is none of"),
        ({"class_path": "torch.nn.Linear"}, "'torch.nn.Linear' is none of lightning_adls"),
        ({"class_path": "Prune"}, "'Prune' is none of"),
        ({"class_path": ["Prune"]}, r"\['Prune'\] is none of"),
        ({"class_path": "lightning_adls.transforms.prune.Prune"}, "is none of"),
        ({"class_path": PRUNE, "init_args": {"sparsty": 0.5}}, "'sparsty' is no argument of"),
        ({"class_path": PRUNE}, "do not fit .*missing 1 required .*'sparsity'"),
        ({"class_path": PRUNE, "init_args": {"sparsity": "half"}}, "do not fit"),
        ({"class_path": PRUNE, "init_args": {"sparsity": 0.5, "layers": 3}}, "do not fit"),
    ],
)
def test_wrong_descriptions_are_refused_in_one_sentence(description: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^read: .*{message}") as caught:
        read(description)
    assert "\n" not in str(caught.value)


def test_wrong_values_are_refused_by_the_transform() -> None:
    with pytest.raises(ValueError, match=r"^Prune: sparsity=1\.5 is not in 0 <= sparsity < 1"):
        read({"class_path": PRUNE, "init_args": {"sparsity": 1.5}})


def test_a_description_is_not_shared_with_the_transform() -> None:
    recipe = Quantize({"0": "Integer"})
    describe(recipe)["init_args"]["layers"]["0"] = None
    assert recipe == Quantize({"0": "Integer"})


@pytest.mark.parametrize("name", ["layers", "trainable"])
def test_one_pattern_of_adapters_is_not_taken_for_a_list_of_letters(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^LoRA: {name}='\*' is not a list of patterns"):
        LoRA(**{name: "*"})  # type: ignore[arg-type]
