"""Nothing that is multiplied with is left out silently."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_adls import LoRA, Pack, Prune, Quantize, coverage, summarize
from lightning_adls.layers import QuantizedLayer, formats_of
from lightning_adls.transforms import CoveredWeight, calibrate, costs
from lightning_adls.transforms.cost import size_mb
from lightning_adls.transforms.products import products_of

FOUR = "MXInt(width=4)"  # 4.25 bits where rows are multiples of 32


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True)
        self.gru = nn.GRU(12, 4)
        self.cell = nn.RNNCell(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.lstm(self.embedding(tokens))[0])
        return self.head(self.cell(states[-1]))  # type: ignore[no-any-return]


class Functional(nn.Module):
    """Parameters that no layer holds: multiplied with, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.query_bias = nn.Parameter(torch.randn(5, 8))
        self.gain = nn.Parameter(torch.randn(8))
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.experts = nn.ParameterList([nn.Parameter(torch.randn(6, 6)) for _ in range(2)])
        self.bilinear = nn.Bilinear(6, 6, 3)
        self.norm = nn.LayerNorm((5, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear((x + self.positions + self.query_bias) * self.gain, self.weight)
        for expert in self.experts:
            x = self.norm(x @ expert)
        return self.bilinear(x, x)  # type: ignore[no-any-return]


def made() -> nn.Module:
    return nn.Sequential(
        nn.utils.weight_norm(nn.Linear(8, 6)),
        parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.utils.spectral_norm(nn.Linear(4, 6)),
        parametrizations.spectral_norm(nn.Linear(6, 8)),
        parametrizations.orthogonal(nn.Linear(8, 8)),
        prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5),
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 2, 2),
        nn.BatchNorm2d(2),
        nn.Unflatten(1, (2, 1)),
        nn.Conv3d(2, 1, (1, 2, 2)),
    )


SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = torch.randint(3, 20, (2, 5))


def of_transformers(kind: str, name: str, **settings: Any) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(**settings)
    model: nn.Module = getattr(transformers, kind + name)(config)
    return model


def bert(name: str = "ForSequenceClassification") -> nn.Module:
    return of_transformers("Bert", name, vocab_size=20, intermediate_size=32, **SIZES)


def gpt2() -> nn.Module:
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    return of_transformers(
        "GPT2", "LMHeadModel", vocab_size=20, n_embd=16, n_layer=1, n_head=2, **ids
    )


def distilbert() -> nn.Module:
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    return of_transformers("DistilBert", "ForSequenceClassification", vocab_size=20, **sizes)


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return of_transformers("T5", "ForConditionalGeneration", vocab_size=20, **sizes)


def vit() -> nn.Module:
    sizes = {"image_size": 8, "patch_size": 4, "intermediate_size": 32}
    return of_transformers("ViT", "ForImageClassification", **sizes, **SIZES)


def mixtral() -> nn.Module:
    """Experts whose weights are parameters of three dimensions and of no layer."""
    sizes = {"vocab_size": 20, "num_key_value_heads": 2, "num_local_experts": 2}
    others = {"intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return of_transformers("Mixtral", "ForSequenceClassification", **sizes, **others, **SIZES)


def transformer() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


def attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)


# What makes a model, and the inputs that it is run on.
ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "BERT": (bert, lambda: (TOKENS,)),
    "BERT, tied decoder": (lambda: bert("ForMaskedLM"), lambda: (TOKENS,)),
    "DistilBERT": (distilbert, lambda: (TOKENS,)),
    "GPT-2": (gpt2, lambda: (TOKENS,)),
    "T5": (t5, lambda: (TOKENS, None, TOKENS)),
    "Mixtral": (mixtral, lambda: (TOKENS,)),
    "ViT": (vit, lambda: (torch.randn(2, 3, 8, 8),)),
    "recurrent": (Recurrent, lambda: (TOKENS,)),
    "functional": (Functional, lambda: (torch.randn(2, 5, 8),)),
    "made before each call": (made, lambda: (torch.randn(3, 8),)),
    "convolutions": (convolutions, lambda: (torch.randn(2, 1, 8, 8),)),
    "nn.Transformer": (transformer, lambda: (torch.randn(2, 5, 8), torch.randn(2, 3, 8))),
    "attention with other keys": (
        attention,
        lambda: (torch.randn(5, 2, 8), torch.randn(3, 2, 4), torch.randn(3, 2, 6)),
    ),
}


def counted(model: nn.Module) -> list[CoveredWeight]:
    return [weight for weight in coverage(model) if weight.multiplied]


@pytest.mark.parametrize(("make", "inputs"), ZOO.values(), ids=ZOO)
def test_what_is_read_from_the_modules_is_what_a_run_multiplies_with(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[Any, ...]]
) -> None:
    model = make()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = counted(model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(weight.bits == 32 and weight.format is None and weight.reason for weight in found)
    assert len({name for weight in found for name in weight.names}) >= len(found)
    total = sum(weight.elements for weight in found)
    seen = products_of(model, lambda: model(*inputs()))
    assert total == sum(seen.elements.values())
    # The same numbers in the figures that are made of it.
    assert costs(model)["bits_per_weight"] == 32
    shown = [int(line.split(" weights")[0].split()[-1].replace(",", "")) for line in lines(model)]
    assert sum(shown) == total


def lines(model: nn.Module) -> list[str]:
    return summarize(model).splitlines()[:-1]


class Mixed(nn.Module):
    """One layer that can be rounded, and two that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.normed = parametrizations.weight_norm(nn.Linear(64, 64))
        self.lstm = nn.LSTM(64, 16)
        self.head = nn.Linear(64, 4)


LEFT_OUT = r"normed \(parametrised by WeightNorm\), lstm \(LSTM is of no kind\)"
WEIGHTS = {"normed": 64 * 64, "lstm": 4 * 16 * (64 + 16), "head": 64 * 4}


def test_what_no_recipe_can_round_counts_in_full_and_is_named() -> None:
    model = Mixed()
    with pytest.warns(UserWarning, match=f"Quantize: {LEFT_OUT} cannot be rounded"):
        Quantize({"*": FOUR})(model)
    total = sum(WEIGHTS.values())
    bits = (32 * (total - WEIGHTS["head"]) + 4.25 * WEIGHTS["head"]) / total
    assert costs(model)["bits_per_weight"] == bits
    assert [line.split("weights  ")[1][:28] for line in lines(model)] == [
        "full precision: normed (para",
        "full precision: lstm (LSTM i",
        "input=MXInt(width=4, block_s",
    ]
    assert "1 layer         5,120 weights" in lines(model)[1]  # of its two matrices


def test_what_a_recipe_sets_to_none_gives_no_warning() -> None:
    for left_out in (["normed", "lstm"], ["normed.weight", "lstm.weight_*"]):
        model = Mixed()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Quantize({"*": FOUR, **dict.fromkeys(left_out)}, strict=True)(model)
        assert isinstance(model.head, QuantizedLayer)


@pytest.mark.parametrize(
    "recipe",
    [
        Quantize({"head": FOUR}),
        Quantize({"*": {"input": FOUR}}),
        Quantize({"*": FOUR, "[!h]*": None}),
    ],
    ids=str,
)
def test_a_recipe_that_is_not_about_them_gives_no_warning(recipe: Quantize) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe(Mixed())


def test_a_recipe_for_other_kinds_gives_no_warning() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.LSTM(2, 2), nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Quantize({"*": FOUR}, kinds=["Conv2d"])(model)
    model.append(parametrizations.weight_norm(nn.Conv2d(1, 1, 1)))
    with pytest.warns(UserWarning, match=r"Quantize: 3 \(parametrised by WeightNorm\) cannot"):
        Quantize({"*": FOUR}, kinds=["Conv2d"])(model)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ({"*": FOUR}, LEFT_OUT),
        ({"*": FOUR, "lstm": None}, r"normed \(parametrised by WeightNorm\) would"),
        (
            {"*": FOUR, "normed": None, "lstm.weight_hh_l0": None},
            r"lstm \(LSTM is of no kind\) would",
        ),
        ({"*": FOUR, "[nl]*": None, "*d": FOUR}, r"normed \([^)]*\) would"),
        ({"head": FOUR}, LEFT_OUT),
    ],
    ids=str,
)
def test_a_strict_recipe_refuses_what_stays_in_full_precision(
    layers: dict[str, Any], named: str
) -> None:
    model = Mixed()
    with pytest.raises(ValueError, match=rf"^Quantize: strict=True, but .*{named}") as error:
        Quantize(layers, strict=True)(model)
    assert ". " not in str(error.value)
    assert type(model.head) is nn.Linear


def test_a_strict_recipe_takes_models_that_it_rounds_all_of() -> None:
    for make in (bert, distilbert, t5, vit):
        model = make()
        Quantize({"*": {"weight": "Integer(width=8)"}}, strict=True)(model)
        assert costs(model)["bits_per_weight"] == 8
    with pytest.raises(ValueError, match=r"strict=True, but classifier \(Linear, in no recipe\)"):
        Quantize({"bert.*": FOUR}, strict=True)(bert())
    model = bert()
    Quantize({"bert.*": FOUR}, strict=False)(model)
    Quantize({"classifier": FOUR}, strict=True)(model)  # what is rounded stays rounded


def test_a_calibrated_strict_recipe_leaves_out_what_the_recipe_did() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Linear(3, 3), nn.GRU(3, 3))
    layers = {"1": "Integer(width=8)", "0": None, "2": None}
    recipe = Quantize(layers, kinds=["Linear"], strict=True)
    calibrated = calibrate(model, recipe, [torch.randn(4, 2, 3)])
    calibrated(model)
    names = ["0.weight", "2.weight_ih_l0", "2.weight_hh_l0", "1"]
    assert (list(calibrated.to_dict()), calibrated.strict) == (names, True)


def test_a_pattern_of_none_that_matches_nothing_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern 'lstn' matches none of the 1 layers"):
        Quantize({"*": FOUR, "lstn": None})(Mixed())
    with pytest.raises(ValueError, match="pattern 'lstm' matches none of the 1 layers"):
        Quantize({"*": FOUR, "lstm": FOUR})(Mixed())


def test_strictness_is_kept_in_text_and_file(tmp_path: Path) -> None:
    recipe = Quantize({"*": "Integer(width=8)", "normed": None, "lstm": None}, strict=True)
    recipe.save(tmp_path / "recipe.yaml")
    assert Quantize.load(tmp_path / "recipe.yaml") == recipe
    assert "strict=True" in str(recipe)
    assert recipe != Quantize(recipe.layers)
    with pytest.raises(ValueError, match=r"strict='yes' is not true or false"):
        Quantize({"*": None}, strict="yes")  # type: ignore[arg-type]


def test_each_reason_is_told() -> None:
    model: Any = nn.Sequential(*(nn.Linear(32, 32) for _ in range(7)), nn.Embedding(4, 32))
    Quantize({"1": {"input": "Integer(width=8)"}, "[26]": FOUR})(model)
    Prune(0.5, layers=["3"])(model)
    Quantize({"*": "Integer(width=8)"}, kinds=["Embedding"])(model)
    Pack(["4"])(model)
    model[2].enabled = False
    model[6].waiting = True  # until a fit begins to round
    model[5] = nn.modules.linear.NonDynamicallyQuantizableLinear(32, 32)
    found = {weight.names[0]: weight for weight in coverage(model)}
    assert {name: weight.reason for name, weight in found.items()} == {
        "0.weight": "Linear, in no recipe",
        "1.weight": "no format for the weight, input=Integer(width=8, frac_width=4)",
        "2.weight": "switched off",
        "3.weight": "no formats",
        "4.weight": None,
        "5.weight": "NonDynamicallyQuantizableLinear, a subclass of Linear whose owner may read "
        "the weight",
        "6.weight": None,
        "7.weight": None,
    }
    assert {name: weight.format for name, weight in found.items() if not weight.reason} == {
        "4.weight": "MXInt(width=8, block_size=32)",
        "6.weight": "MXInt(width=4, block_size=32)",
        "7.weight": "Integer(width=8, frac_width=4)",
    }
    assert [weight.bits for weight in found.values()] == [32, 32, 32, 32, 8.25, 32, 4.25, 8]
    assert [weight.multiplied for weight in found.values()] == [True] * 7 + [False]
    assert costs(model)["bits_per_weight"] == (5 * 32 + 8.25 + 4.25) / 7
    shown = summarize(model)
    assert all(str(w.reason or w.format) in shown for w in found.values())


def test_a_layer_that_is_switched_off_is_stored_in_full() -> None:
    model: Any = nn.Sequential(nn.Linear(32, 32))
    plain = size_mb(model)
    Quantize({"*": {"weight": FOUR}})(model)
    assert size_mb(model) < plain
    model[0].enabled = False
    assert size_mb(model) == plain


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 32)
        self.first = nn.Linear(32, 6, bias=False)
        self.second = nn.Linear(32, 6, bias=False)
        self.first.weight = self.second.weight = self.table.weight


def test_tied_weights_are_one_row_that_tells_who_reads_them_in_full() -> None:
    model = Tied()
    (row,) = coverage(model)
    assert row.names == ("table.weight", "first.weight", "second.weight")
    Quantize({"first": {"weight": "Integer(width=8)"}})(model)
    (row,) = coverage(model)
    assert (row.elements, row.format, row.bits, row.multiplied) == (192, None, 32, True)
    assert row.reason == (
        "Linear, in no recipe; but rounded to Integer(width=8, frac_width=4) by first"
    )
    with pytest.raises(ValueError, match=r"strict=True, but second \(Linear, in no recipe\)"):
        Quantize({"first": FOUR}, strict=True)(model)
    Quantize({"second": {"weight": "Integer(width=4)"}})(model)
    (row,) = coverage(model)
    formats = "Integer(width=8, frac_width=4); Integer(width=4, frac_width=4)"
    assert (row.format, row.bits) == (formats, 12)
    assert row.reason == "looked up in full by table"


def test_a_layer_that_is_used_twice_has_two_names() -> None:
    layer = nn.Linear(4, 4)
    (row,) = coverage(nn.Sequential(layer, nn.Sequential(layer)))
    assert row.names == ("0.weight", "1.0.weight")


def test_the_model_itself_is_told_and_counted() -> None:
    (row,) = coverage(nn.Linear(4, 4))
    assert (row.names, row.reason) == (("weight",), "the model itself, which nothing can replace")
    assert costs(nn.Linear(4, 4))["bits_per_weight"] == 32
    assert "full precision: weight (the model itself" in summarize(nn.Linear(4, 4))


def test_what_is_shaped_to_be_added_is_told_and_does_not_count() -> None:
    model = vit()
    added = [weight for weight in coverage(model) if not weight.multiplied]
    assert [weight.names[0] for weight in added] == [
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
    ]
    assert {weight.reason for weight in added} == {"shaped as what is added to a batch"}


def test_a_weight_without_a_size_is_told_and_has_no_costs() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Linear(8, 8))
    lazy, _ = coverage(model)
    assert (lazy.names, lazy.elements, lazy.bits) == (("0.weight",), 0, 32)
    assert lazy.reason == "not initialised, run a batch first"
    with pytest.warns(UserWarning, match=r"Quantize: 0 \(not initialised, run a batch first\)"):
        Quantize({"*": FOUR})(model)
    for function in (costs, size_mb, summarize):
        with pytest.raises(ValueError, match=r"'0\.weight' has no size yet; run a batch through"):
            function(model)
    model(torch.randn(3, 8))
    assert costs(model)["bits_per_weight"] == (32 + 5) / 2  # rows of 8 share an exponent


def test_adapters_are_linear_layers_in_no_recipe() -> None:
    model = bert()
    Quantize({"*": {"weight": "Integer(width=8)"}})(model)
    LoRA(rank=2)(model)
    left_out = [weight for weight in counted(model) if weight.reason]
    assert {weight.reason for weight in left_out} == {"Linear, in no recipe"}
    assert all("lora_" in name for weight in left_out for name in weight.names)
    assert len(left_out) == 4


def test_weights_made_of_parameters_of_other_shapes_count_as_they_are_multiplied() -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros(len(weight), 2), torch.zeros(2, weight.shape[1])

    layer = nn.Linear(32, 16)
    nn.utils.parametrize.register_parametrization(layer, "weight", Product())
    (row,) = coverage(nn.Sequential(layer))
    assert (row.names, row.elements) == (("0.weight",), 32 * 16)
    assert row.reason == "parametrised by Product"


def test_asking_changes_no_buffer_of_a_parametrisation_in_training() -> None:
    model = nn.Sequential(made()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    summarize(model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_learned_scales_of_a_weight_are_stored_once() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    Quantize({"*": {"weight": "LearnedInteger(width=4)"}})(model)
    assert size_mb(model) == (32 * 32 * 4 + 32) / 8 / 1e6
    Quantize({"*": {"weight": "ResidualSign(levels=2)"}})(model)
    assert size_mb(model) == (32 * 32 * 2 + 2 * 32) / 8 / 1e6


BITS = {"MXInt(width=4)": 4.25, "Integer(width=7)": 7.0, None: 32.0}
PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(32, 3),
    "convolution": lambda: nn.Conv1d(32, 5, 1),
    "normed": lambda: parametrizations.weight_norm(nn.Linear(32, 4)),
    "recurrent": lambda: nn.GRU(32, 32),
    "table": lambda: nn.Embedding(9, 32),
    "norm": lambda: nn.LayerNorm((3, 32)),
}
ELEMENTS = {"linear": 96, "convolution": 160, "normed": 128, "recurrent": 2 * 3 * 32 * 32}


@given(
    st.lists(
        st.tuples(st.sampled_from(list(PARTS)), st.sampled_from(list(BITS))), min_size=1, max_size=6
    ).filter(lambda parts: any(part in ("linear", "convolution") for part, _ in parts))
)
def test_bits_per_weight_are_the_mean_over_all_weights(parts: list[tuple[str, str | None]]) -> None:
    model = nn.Sequential(*(PARTS[part]() for part, _ in parts))
    chosen = {
        str(n): {"weight": fmt}
        for n, (part, fmt) in enumerate(parts)
        if part in ("linear", "convolution")
    }
    Quantize(chosen)(model)
    elements = [ELEMENTS.get(part, 0) for part, _ in parts]
    bits = [BITS[fmt] if str(n) in chosen else 32 for n, (_, fmt) in enumerate(parts)]
    expected = sum(map(float.__mul__, map(float, elements), map(float, bits))) / sum(elements)
    rows = counted(model)
    assert costs(model)["bits_per_weight"] == pytest.approx(expected)
    assert sum(row.bits * row.elements for row in rows) / sum(elements) == pytest.approx(expected)
    assert sum(row.elements for row in rows) == sum(elements)
    assert sum(32 - row.bits for row in rows if row.format is None) == 0


def test_values_of_models_of_known_layers_are_those_of_their_layers_alone() -> None:
    model = bert()
    Quantize({"*": FOUR, "classifier": None})(model)
    stored = total = 0
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            fmt = formats_of(layer).weight
            bits = 32 * layer.weight.numel()
            stored += bits if fmt is None else fmt.storage_bits(tuple(layer.weight.shape))
            total += layer.weight.numel()
    assert costs(model)["bits_per_weight"] == stored / total


class ReadPast(nn.Module):
    """Reads the weights of an embedding and of one of two layers without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.called = nn.Linear(32, 32)
        self.read = nn.Linear(32, 32)
        self.positions = nn.Parameter(torch.randn(5, 32))
        self.mixing = nn.Parameter(torch.randn(1, 32, 32))
        self.unused = nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.called(self.table(tokens) + self.positions) @ self.mixing
        return nn.functional.linear(x, self.read.weight) @ self.table.weight.T


@pytest.mark.parametrize("mode", [nn.Module.train, nn.Module.eval])
def test_a_run_tells_what_is_read_past_its_layer_and_what_is_only_added(
    mode: Callable[[nn.Module], nn.Module],
) -> None:
    model = mode(ReadPast())
    with pytest.warns(UserWarning, match=r"positions \(a parameter of ReadPast, perhaps only"):
        Quantize({"*": {"weight": "LearnedInteger(width=8)"}})(model)
    found = {row.names[0]: row for row in coverage(model, lambda: model(TOKENS))}
    text = "LearnedInteger(width=8)"
    assert {name: (row.format, row.reason) for name, row in found.items()} == {
        "positions": (None, "a parameter of ReadPast, not multiplied with"),
        "mixing": (None, "a parameter of ReadPast, multiplied with"),
        "table.weight": (None, "read past table"),
        "called.weight": (text, None),
        "read.weight": (None, "read past read"),
        "unused.weight": (text, None),
    }
    assert [name for name, row in found.items() if not row.multiplied] == ["positions"]
    assert {row.bits for row in found.values() if row.format} == {8 + 32 / 32**2}
    assert {row.bits for row in found.values() if not row.format} == {32}
    # Without a run the layers say what they would do if they were called.
    assert {row.names[0] for row in coverage(model) if row.reason} == {"positions", "mixing"}


def _is_plain(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, nn.Conv2d) and "weight" in module._parameters


@pytest.mark.parametrize(("make", "inputs"), ZOO.values(), ids=ZOO)
def test_a_run_agrees_with_what_is_read_from_rounded_models(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[Any, ...]]
) -> None:
    model = make()
    rounded = [name for name, m in model.named_modules() if name and _is_plain(m)]
    if rounded:
        Quantize({name: {"weight": "Integer(width=8)"} for name in rounded})(model)
    read = [row for row in coverage(model) if row.multiplied]
    seen = [row for row in coverage(model, lambda: model(*inputs())) if row.multiplied]
    assert [(row.names, row.format, row.bits) for row in seen] == [
        (row.names, row.format, row.bits) for row in read
    ]


def test_a_run_tells_of_weights_that_a_fused_path_reads() -> None:
    # Whether torch's encoder layer still takes that path is told by its output.
    model = nn.TransformerEncoderLayer(32, 2, 32, batch_first=True).eval()
    Quantize({"linear*": {"weight": "Binary"}})(model)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        fused = model(x)
    called = torch.allclose(fused, model(x), atol=1e-4)
    rows = coverage(model, lambda: model(x))
    found = {row.reason for row in rows if row.names[0].startswith("linear")}
    assert found == ({None} if called else {"read past linear1", "read past linear2"})
