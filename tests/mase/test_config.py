"""MASE's quantisation configs: reading them in every form, and writing them."""

import copy
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from lightning_adls.formats import Binary, BlockFP, Integer
from lightning_adls.layers import COMPUTING, LayerFormats, formats_of
from lightning_adls.layers.mase.layer_config import formats_of_config
from lightning_adls.mase.config import read_config
from lightning_adls.mase.export import to_config, write_config
from lightning_adls.mase.names import TYPES, graph_name
from lightning_adls.transforms import Quantize
from lightning_adls.transforms.walk import layers_of

GUIDE = Path(__file__).parents[2] / "docs" / "mase.md"
ROLES = ("data_in", "weight", "bias")
PLAIN = {"config": {"name": None}}


def keys(**parameters: Any) -> dict[str, Any]:
    """The same parameters for input, weight and bias."""
    return {f"{role}_{name}": value for role in ROLES for name, value in parameters.items()}


def integer(width: int = 8, frac_width: int = 4, **others: Any) -> dict[str, Any]:
    """An entry of a config."""
    return {"config": {"name": "integer", **keys(width=width, frac_width=frac_width), **others}}


def formats(width: int = 8, frac_width: int = 4) -> LayerFormats:
    """What such an entry means."""
    return LayerFormats(*[Integer(width, frac_width)] * 3)


BLOCKS = {
    "config": {
        "name": "block_fp",
        **keys(width=7, exponent_width=8, exponent_bias=127, block_size=[1, 16]),
    }
}


class Block(nn.Module):
    """Linear layers with names that a graph spells differently, and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.queryProj = nn.Linear(8, 8)
        self.act = nn.ReLU()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.matmul(x, self.layers(self.act(self.queryProj(x))))
        return result


class Net(nn.Module):
    """Two convolutions, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 1)
        self.image = nn.Conv2d(1, 1, 1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.image(self.stem(x).unsqueeze(0)).squeeze(0)
        for block in self.blocks:
            x = block(x)
        result: torch.Tensor = self.head(x)
        return result


LINEAR = [
    *(f"blocks.{n}.{name}" for n in (0, 1) for name in ("queryProj", "layers.0")),
    "head",
]


@pytest.fixture
def net() -> Net:
    return Net()


def applied(recipe: Quantize, net: nn.Module) -> dict[str, LayerFormats]:
    """The formats of all layers of a copy of ``net`` after quantising it."""
    net = copy.deepcopy(net)
    recipe(net)
    return {name: formats_of(layer) for name, layer in layers_of(net).items()}


# Reading: forms


TOML = """
model = "toy"

[passes.quantize]
by = "name"
report = true

[passes.quantize.default.config]
name = "NA"

[passes.quantize."blocks.0.layers.0".config]
name = "minifloat_ieee"
data_in_width = 8
data_in_exponent_width = 4
data_in_exponent_bias = 7
weight_width = 6
weight_exponent_width = 3
weight_exponent_bias = "NA"
bias_width = 8
bias_exponent_width = 4
bias_exponent_bias = 7
"""


def test_a_file_and_the_mappings_it_stands_for_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TOML)
    whole = tomllib.loads(TOML)
    section = whole["passes"]["quantize"]
    found = read_config(path)
    assert found == read_config(str(path)) == read_config(whole) == read_config(section)
    assert {name: str(choice) for name, choice in found.recipe.layers.items()} == {
        "blocks.0.layers.0": "input=MinifloatIEEE(width=8, exponent_width=4, exponent_bias=7), "
        "weight=MinifloatIEEE(width=6, exponent_width=3), "
        "bias=MinifloatIEEE(width=8, exponent_width=4, exponent_bias=7)"
    }
    assert found.recipe.backend == "mase"
    assert found.meaningless == ("report: nothing is printed; `summarize` tells about a model",)


def test_a_section_may_be_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(TOML.replace("passes.quantize.", "").replace("[passes.quantize]", ""))
    with pytest.raises(ValueError, match=r"entry 'model' has no table 'config'"):
        read_config(path)  # what is no part of a section is not passed over
    path.write_text(path.read_text().replace('model = "toy"', ""))
    assert list(read_config(path).recipe.layers) == ["blocks.0.layers.0"]


def test_reading_changes_neither_the_mapping_nor_the_model(net: Net) -> None:
    config = {
        "by": "name",
        "default": {"config": {"name": "NA"}},
        "blocks_0_layers_0": copy.deepcopy(BLOCKS),
        "head": integer(bypass=True),
    }
    before, modules = copy.deepcopy(config), [type(m) for m in net.modules()]
    read_config(config, net)
    assert config == before
    assert [type(m) for m in net.modules()] == modules


# Reading: by type


def test_a_type_is_a_kind_of_layers(net: Net) -> None:
    found = read_config({"by": "type", "default": PLAIN, "linear": integer()}, backend="standard")
    assert found.recipe == Quantize({"*": formats()}, kinds=("Linear",))
    assert found.meaningless == ()
    quantised = applied(found.recipe, net)
    assert {name for name, choice in quantised.items() if choice == formats()} == set(LINEAR)


def test_types_that_are_quantised_differently_need_the_model(net: Net) -> None:
    config = {"by": "type", "linear": integer(), "conv2d": integer(6), "conv1d": PLAIN}
    with pytest.raises(ValueError, match=r"Linear and Conv2d are quantised differently.*the model"):
        read_config(config, backend="standard")
    expected = dict.fromkeys(LINEAR, formats())
    expected |= {"image": formats(6), "stem": LayerFormats()}
    assert applied(read_config(config, net, "standard").recipe, net) == expected


def test_types_that_are_quantised_alike_need_no_model() -> None:
    config = {"by": "type", "linear": integer(), "conv2d": integer()}
    recipe = read_config(config, backend="standard").recipe
    assert recipe == Quantize({"*": formats()}, kinds=("Linear", "Conv2d"))


@pytest.mark.parametrize("given_model", [False, True])
@pytest.mark.parametrize("backend", ["mase", "standard"])
def test_convolutions_have_a_meaning_for_the_standard_backend_alone(
    net: Net, given_model: bool, backend: str
) -> None:
    config = {"by": "type", "default": integer(), "conv1d": BLOCKS}
    found = read_config(config, net if given_model else None, backend)
    expected = dict.fromkeys(LINEAR, formats()) | {"stem": LayerFormats()}
    expected["image"] = formats() if backend == "standard" else LayerFormats()
    assert applied(found.recipe, net) == expected
    rounded = "Linear, Conv2d" if backend == "standard" else "Linear"
    reason = {
        "mase": "the backend 'mase' has no Conv1d",
        "standard": "block_fp means something else for a Conv1d of MASE",
    }
    assert found.meaningless == (
        f"default: is for {rounded} layers here; MASE applies it to operations such as add, matmul "
        "and relu as well",
        f"conv1d: {reason[backend]}",
    )


# Reading: by name


@pytest.mark.parametrize("name", ["blocks.1.queryProj", "blocks_1_query_proj"])
def test_a_layer_is_found_by_its_name_and_by_its_name_in_the_graph(net: Net, name: str) -> None:
    found = read_config({"by": "name", "default": integer(), name: integer(6)}, net, "standard")
    expected = dict.fromkeys(layers_of(net), formats()) | {"blocks.1.queryProj": formats(6)}
    assert applied(found.recipe, net) == expected


def test_without_a_model_names_are_taken_as_they_are(net: Net) -> None:
    config = {"by": "name", "default": integer(), "head": integer(6), "blocks.0.queryProj": PLAIN}
    recipe = read_config(config).recipe
    assert recipe == Quantize(
        {"*": formats(), "head": formats(6), "blocks.0.queryProj": None}, ("Linear",), "mase"
    )
    assert applied(recipe, net)["blocks.0.queryProj"] == LayerFormats()
    unknown = read_config({"by": "name", "blocks_0_query_proj": integer()}).recipe
    with pytest.raises(ValueError, match="'blocks_0_query_proj' matches none"):
        unknown(net)


def test_an_entry_replaces_the_default_as_a_whole() -> None:
    config = {"by": "name", "default": integer(), "head": {"config": {"name": "integer"}}}
    with pytest.raises(ValueError, match="entry 'head': config lacks data_in_width"):
        read_config(config)


@pytest.mark.parametrize("entry", [PLAIN, {"config": {"name": "NA"}}, integer(bypass=True)])
@pytest.mark.parametrize("by", ["name", "regex_name"])
def test_no_name_and_bypass_leave_a_layer_as_it_is(
    net: Net, by: str, entry: dict[str, Any]
) -> None:
    recipe = read_config({"by": by, "default": integer(), "head": entry}, net, "standard").recipe
    assert applied(recipe, net)["head"] == LayerFormats()


def test_a_name_that_two_modules_have_in_the_graph_is_refused() -> None:
    net = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(2, 2)}), "A_B": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"entry 'a_b' can be a\.b or A_B; write it with dots"):
        read_config({"by": "name", "a_b": integer()}, net)
    found = read_config({"by": "name", "A_B": integer()}, net, "standard")
    assert applied(found.recipe, net) == {"a.b": LayerFormats(), "A_B": formats()}


def test_a_name_with_dots_comes_before_the_same_name_in_the_graph() -> None:
    net = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(2, 2)}), "a_b": nn.Linear(2, 2)})
    found = read_config({"by": "name", "a_b": integer()}, net, "standard")
    assert applied(found.recipe, net) == {"a.b": LayerFormats(), "a_b": formats()}


@pytest.mark.parametrize("given_model", [False, True])
def test_names_are_neither_patterns_nor_types(given_model: bool) -> None:
    net = nn.ModuleDict({"linear": nn.Linear(2, 2), "a[0]": nn.Linear(2, 2), "a0": nn.Linear(2, 2)})
    config = {"by": "name", "default": integer(), "linear": integer(6), "a[0]": integer(7)}
    found = read_config(config, net if given_model else None, "standard")
    expected = {"linear": formats(6), "a[0]": formats(7), "a0": formats()}
    assert applied(found.recipe, net) == expected


def test_the_names_of_the_graph_are_those_of_torch_fx(net: Net) -> None:
    nodes = fx.symbolic_trace(net, concrete_args=None).graph.nodes
    names = {node.target: node.name for node in nodes if node.op == "call_module"}
    assert {name: graph_name(name) for name in names} == names
    assert "blocks_1_query_proj" in names.values()


# Reading: by regular expression


def test_a_regular_expression_needs_the_model() -> None:
    with pytest.raises(ValueError, match=r"entry '\.\*' is a regular expression.*pass the model"):
        read_config({"by": "regex_name", ".*": integer()})


EXPRESSIONS = (
    r".*\.0",
    r"blocks\.\d\..*",
    r"blocks_1_.*",
    r".*",
    r"he.d",
    r".*query.*",
    r"(stem|.*j)",
)


@given(st.lists(st.sampled_from(EXPRESSIONS), unique=True, min_size=1), st.booleans())
def test_the_first_expression_that_matches_a_whole_name_counts(
    expressions: list[str], default: bool
) -> None:
    net = Net()
    config: dict[str, Any] = {"by": "regex_name"}
    config |= {pattern: integer(n + 4) for n, pattern in enumerate(expressions)}
    if default:
        config["default"] = integer(16)
    expected = {}
    for name in layers_of(net):
        fits = [
            n
            for n, pattern in enumerate(expressions)
            if re.fullmatch(pattern, name) or re.fullmatch(pattern, graph_name(name))
        ]
        otherwise = formats(16) if default else LayerFormats()
        expected[name] = formats(fits[0] + 4) if fits else otherwise
    found = read_config(config, net, "standard")
    assert applied(found.recipe, net) == expected
    chosen = {choice.weight.width for choice in expected.values() if choice.weight is not None}  # type: ignore[attr-defined]
    for n, pattern in enumerate(expressions):
        idle = f"{pattern}: earlier entries are about its layers"
        assert (idle in found.meaningless) == (n + 4 not in chosen)


# What has no meaning here


def test_entries_and_keys_without_a_meaning_are_told(net: Net) -> None:
    activation = {"config": {"name": "integer", "data_in_width": 8, "data_in_frac_width": 4}}
    signs = keys(stochastic=0, bipolar=1) | keys(width=1) | {"data_in_frac_width": 0}
    config = {
        "by": "name",
        "report": False,
        "gptq": {"batches": 2},
        "blocks.0.act": activation,
        "blocks_1_act": activation,
        "matmul_1": activation,
        "relu": activation,
        "head": integer(data_out_width=8, data_out_frac_width=4),
        "blocks.0.queryProj": {"config": {"name": "binary", **signs}},
        "blocks.1.queryProj": {"config": {"name": "lutnet", "data_in_k": 4}},
    }
    found = read_config(config, net)
    told = dict(line.split(": ", 1) for line in found.meaningless)
    assert told == {
        "report": "nothing is printed; `summarize` tells about a model",
        "gptq": "weights are not changed before they are rounded",
        "blocks.0.act": "it is no layer that recipes are about",
        "blocks_1_act": "it is no layer that recipes are about",
        "matmul_1": "it is no layer that recipes are about",
        "relu": "it is no layer that recipes are about",
        "head": "data_out_width, data_out_frac_width: outputs are not rounded here",
        "blocks.0.queryProj": told["blocks.0.queryProj"],
        "blocks.1.queryProj": "there is nothing like MASE's lutnet here",
    }
    assert told["blocks.0.queryProj"].startswith("data_in_stochastic, data_in_bipolar, ")
    assert told["blocks.0.queryProj"].endswith("data_in_frac_width: not used by binary")
    rounded = {n: f for n, f in applied(found.recipe, net).items() if f != LayerFormats()}
    assert rounded == {"head": formats(), "blocks.0.queryProj": LayerFormats(weight=Binary())}


def test_an_expression_for_operations_is_told(net: Net) -> None:
    found = read_config({"by": "regex_name", r"(bmm|matmul)(_\d)?": integer()}, net)
    assert found.meaningless == (r"(bmm|matmul)(_\d)?: it is no layer that recipes are about",)
    assert set(applied(found.recipe, net).values()) == {LayerFormats()}


def test_types_that_are_no_layers_are_told() -> None:
    config = {"by": "type", "linear": integer(), "relu": {"config": {"name": "integer"}}}
    assert read_config(config).meaningless == ("relu: it is no layer that recipes are about",)


# Errors of reading


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the mapping has no quantisation section: no .*, no key 'by'"),
        ({"passes": {"prune": {}}}, "no quantisation section"),
        ({"passes": {"quantize": {"linear": integer()}}}, "by=None is not one of type, name, reg"),
        ({"by": "names"}, "by='names' is not one of type, name, regex_name"),
        ({"by": "type", "lin": integer()}, "'lin' is no type.*MASE's types are linear, conv1d"),
        ({"by": "type", "linear": integer()["config"]}, "'linear' has no table 'config'"),
        ({"by": "type", "raport": True}, "'raport' has no table 'config'"),
        ({"by": "name", "a": {"b": integer()}}, "'a' has no table.*dotted names need quotes"),
        ({"by": "type", "linear": {"config": {}}}, "entry 'linear' has no 'name' of a kind"),
        ({"by": "type", "linear": integer(bypass="no")}, "'linear': bypass='no' is not true or f"),
        ({"by": "type", "linear": integer(name="int")}, "'linear': name='int' is unknown; there"),
        ({"by": "type", "linear": integer(wieght_width=8)}, "'linear': wieght_width=8 is no key"),
        ({"by": "type", "linear": integer(weight_width=0)}, "'linear': weight_width=0 .*2..32"),
        ({"by": "name", "a": {"config": {"name": "log"}}}, "no linear layer, pass the model"),
        ({"by": "name", "blocks.0.quereyProj": integer()}, "did you mean 'blocks.0.queryProj'"),
        ({"by": "name", "x": integer()}, r"'x' \(by='name'\) is about nothing in the model; its l"),
        ({"by": "regex_name", "mul(": integer()}, r"'mul\(' is no regular expression: missing"),
        ({"by": "regex_name", "enc.*": integer()}, "is about nothing in the model"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(
    net: Net, config: dict[str, Any], message: str
) -> None:
    model = net if {"blocks.0.quereyProj", "x", "mul(", "enc.*"} & set(config) else None
    with pytest.raises(ValueError, match=message) as error:
        read_config(config, model)
    assert str(error.value).startswith("read_config: ")
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(FileNotFoundError):
        read_config(path)
    path.write_text("by: type")
    with pytest.raises(ValueError, match=r"config\.toml is not TOML"):
        read_config(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.toml is not TOML"):
        read_config(path)
    path.write_text("[default]\nname = 'integer'")
    with pytest.raises(ValueError, match=r"config\.toml has no quantisation section"):
        read_config(path)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="model has no layer"):
        read_config({"by": "type", "linear": integer()}, nn.ReLU())


# Writing


def each(*names: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Keys of a kind, with values of their own for each tensor."""
    return st.fixed_dictionaries(
        {f"{role}_{name}": parameters[name] for role in names for name in parameters}
    )


WIDTH, BIAS = st.integers(6, 12), st.one_of(st.none(), st.integers(1, 30))
EXPONENT = st.integers(3, 8)
MINIFLOAT = {"width": WIDTH, "exponent_width": st.integers(2, 4)}
TILE = st.sampled_from([[16], [1, 16], [4, 8], [-1, 8], [2, -1]])
SIGN = {"stochastic": st.booleans(), "bipolar": st.just(True)}
CONFIGS = {
    "integer": st.builds(
        dict,
        each(*ROLES, width=WIDTH, frac_width=st.integers(-2, 12)),
        floor=st.booleans(),
    ),
    "minifloat_ieee": each(*ROLES, **MINIFLOAT, exponent_bias=BIAS),
    "minifloat_denorm": each(*ROLES, **MINIFLOAT, exponent_bias=BIAS),
    "log": each(*ROLES, width=WIDTH, exponent_bias=BIAS),
    "block_fp": each(
        *ROLES, width=WIDTH, exponent_width=EXPONENT, exponent_bias=BIAS, block_size=TILE
    ),
    "block_minifloat": each(*ROLES, **MINIFLOAT, exponent_bias_width=EXPONENT, block_size=TILE),
    "block_log": each(*ROLES, width=WIDTH, exponent_bias_width=EXPONENT, block_size=TILE),
    "binary": each("weight", **SIGN),
    "binary_residual": st.builds(
        lambda weight, levels: {
            "data_in_stochastic": False,
            "data_in_bipolar": True,
            "data_in_levels": levels,
            "binary_training": True,
            **weight,
        },
        each("weight", **SIGN),
        st.integers(1, 3),
    ),
    "ternary": st.booleans().map(lambda scaled: {"weight_scaling_factor": scaled}),
    "mxint": each(*ROLES, width=st.integers(2, 8), block_size=st.sampled_from([8, 16, 32])),
}
ON_GRAPHS = tuple(kind for kind in CONFIGS if kind[:2] not in ("bi", "te", "mx"))


def layer_formats(kinds: tuple[str, ...] = tuple(CONFIGS)) -> st.SearchStrategy[LayerFormats]:
    """The formats of a layer of one of MASE's kinds."""
    return st.sampled_from(kinds).flatmap(
        lambda kind: CONFIGS[kind].map(lambda config: formats_of_config(kind, config))
    )


def through_a_file(recipe: Quantize, path: Path, **arguments: Any) -> dict[str, Any]:
    """What a file holds, that differs from the mapping in None alone."""
    write_config(recipe, path, **arguments)
    section: dict[str, Any] = tomllib.loads(path.read_text())["passes"]["quantize"]
    config = to_config(recipe, **arguments)
    assert section == {
        key: {"config": {k: "NA" if v is None else v for k, v in entry["config"].items()}}
        if key != "by"
        else entry
        for key, entry in config.items()
    }
    return section


@given(
    choices=st.dictionaries(
        st.text("ab.0 é\"'\\", min_size=1), st.none() | layer_formats(), min_size=1
    ),
    backend=st.sampled_from(["standard", "mase"]),
)
def test_a_recipe_over_names_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, choices: dict[str, Any], backend: str
) -> None:
    recipe = Quantize(choices, tuple(TYPES), backend)
    found = read_config(to_config(recipe), backend=backend)
    assert found.recipe == recipe
    assert list(found.recipe.layers) == list(recipe.layers)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    through_a_file(recipe, path)
    assert read_config(path, backend=backend) == found


@given(choice=layer_formats(ON_GRAPHS), graph=st.booleans(), backend=st.booleans())
def test_a_recipe_for_all_linear_layers_is_read_back_as_it_was(
    choice: LayerFormats, graph: bool, backend: bool
) -> None:
    recipe = Quantize({"*": choice}, ("Linear",), "mase" if backend else "standard")
    config = to_config(recipe, graph=graph)
    assert config["by"] == "type"
    assert list(config) == ["by", *(["default"] if graph else []), "linear"]
    assert read_config(config, backend=recipe.backend).recipe == recipe


def test_a_recipe_for_several_kinds_is_read_back_as_it_was() -> None:
    recipe = Quantize({"*": "Integer(width=6, frac_width=5)"}, tuple(TYPES))
    assert list(to_config(recipe)) == ["by", "linear", "conv1d", "conv2d"]
    # Of all kinds, those that MASE has are written; others that were asked for are refused.
    assert to_config(replace(recipe, kinds=COMPUTING)) == to_config(recipe)
    with pytest.raises(ValueError, match="MASE has no MultiheadAttention with"):
        to_config(replace(recipe, kinds=("Linear", "MultiheadAttention")))
    assert read_config(to_config(recipe), backend="standard").recipe == recipe
    # For a backend that has no convolutions, there are none to write.
    mase = Quantize({"*": "Integer(width=6, frac_width=5)"}, backend="mase")
    assert list(to_config(mase)) == ["by", "linear"]


PATTERNS = ("*", "blocks.*", "*.0", "*.queryProj", "head", "blocks.1.layers.[0-3]")


@given(
    choices=st.dictionaries(
        st.sampled_from(PATTERNS), st.none() | layer_formats(ON_GRAPHS), min_size=1
    ),
    graph=st.booleans(),
)
def test_patterns_are_written_as_the_layers_they_match(
    tmp_path_factory: pytest.TempPathFactory, choices: dict[str, Any], graph: bool
) -> None:
    net = Net()
    recipe = Quantize(choices, kinds=("Linear",))
    path = tmp_path_factory.mktemp("config") / "config.toml"
    section = through_a_file(recipe, path, model=net, graph=graph)
    spelled = map(graph_name, layers_of(net)) if graph else layers_of(net)
    assert set(section) - {"by", "default"} <= set(spelled)
    assert applied(read_config(path, net, "standard").recipe, net) == applied(recipe, net)


def test_layers_that_stay_as_they_are_are_written_as_each_pass_wants_them() -> None:
    recipe = Quantize({"a.b": None})
    assert to_config(recipe)["a.b"] == {"config": {"name": "integer", "bypass": True}}
    assert to_config(recipe, graph=True)["a_b"] == PLAIN


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda net: to_config(Quantize({"blocks.*": "Integer"})), "'blocks.*'.*pass the model"),
        (
            lambda net: to_config(Quantize({"a": {"weight": "Integer"}})),
            "'a': mase: no kind of layer",
        ),
        (lambda net: to_config(Quantize({"a": {"weight": "MXInt"}}), graph=True), "kind mxint"),
        (lambda net: to_config(Quantize({"a": "Binary"})), "passes cannot make.*binary_scaling"),
        (lambda net: to_config(Quantize({"*": BlockFP()})), "'conv1d': MASE has no Conv1d"),
        (lambda net: to_config(Quantize({"*": "Integer"}, ["Embedding"])), "no Embedding with"),
        (lambda net: to_config(Quantize({"tail": "Integer"}), net), "'tail' matches none"),
        (lambda net: to_config(Quantize({"default": "Integer"})), "'default' is 'default' in MASE"),
        (
            lambda net: to_config(Quantize({"a.b": "Integer", "a_b": "Integer"}), graph=True),
            "'a_b' is 'a_b' in MASE, which is something else",
        ),
    ],
)
def test_what_mase_cannot_do_is_not_written(
    net: Net, write: Callable[[nn.Module], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^to_config: .*{message}"):
        write(net)


def test_nothing_is_written_where_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pass the model"):
        write_config(Quantize({"a*": "Integer"}), tmp_path / "config.toml")
    assert not list(tmp_path.iterdir())


def test_the_kinds_are_those_that_mase_has() -> None:
    assert read_config({"by": "name", "head": integer()}).recipe.kinds == tuple(TYPES)
    assert set(TYPES) < set(COMPUTING)


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {"__name__": "page"}
    for example in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, GUIDE.name, "exec"), page)
    assert read_config("mase.toml", backend="standard").recipe.layers
