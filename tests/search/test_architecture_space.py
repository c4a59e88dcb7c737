"""Architectures to choose from, and the models that they are."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import pytest
import torch
from torch import nn

from lightning_adls.models import bert
from lightning_adls.search import Architecture, ArchitectureSpace, GridSampler
from lightning_adls.search.samplers import make_sampler

make = partial(bert, vocab_size=50, max_position_embeddings=12)
DIMENSIONS: dict[str, list[int]] = {
    "num_hidden_layers": [1, 2],
    "num_attention_heads": [1, 2, 4],
    "hidden_size": [8, 16],
    "intermediate_size": [16, 24],
}


def space(identities: Any = "keep", **changes: list[int]) -> ArchitectureSpace:
    return ArchitectureSpace(**{**DIMENSIONS, **changes}, identities=identities)


def sampled(of: ArchitectureSpace, count: int) -> list[tuple[Architecture, dict[str, Any]]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(of.suggest(trial), trial.params) for trial in trials]


def signature(model: Any) -> tuple[Any, ...]:
    """What a model is, read from its modules and not from its configuration."""
    layers = model.bert.encoder.layer
    return (
        len(layers),
        {layer.attention.self.num_attention_heads for layer in layers}.pop(),
        model.bert.embeddings.word_embeddings.embedding_dim,
        model.bert.embeddings.LayerNorm.normalized_shape[0],
        tuple((name, tuple(p.shape)) for name, p in model.named_parameters()),
        tuple(name for name, m in model.named_modules() if isinstance(m, nn.Identity)),
    )


def test_every_point_of_a_grid_is_another_model() -> None:
    study = optuna.create_study(sampler=make_sampler(GridSampler, space(), 0))
    seen = set()

    def judge(trial: optuna.Trial) -> float:
        architecture = space().suggest(trial)
        model: Any = architecture.build(make)
        found = signature(model)
        assert found[:3] == (
            architecture.num_hidden_layers,
            architecture.num_attention_heads,
            architecture.hidden_size,
        )
        widths = {layer.intermediate.dense.out_features for layer in model.bert.encoder.layer}
        assert widths == {architecture.intermediate_size}
        seen.add(found)
        return 0.0

    study.optimize(judge, n_trials=space().points)
    assert len(seen) == space().points == 2 * 3 * 2 * 2


def test_the_number_of_heads_changes_what_a_model_of_the_same_weights_computes() -> None:
    one: Any = Architecture(1, 1, 16, 16).build(make)
    four: Any = Architecture(1, 4, 16, 16).build(make)
    four.load_state_dict(one.state_dict())
    tokens = torch.randint(50, (2, 6))
    assert not torch.allclose(one.eval()(tokens).logits, four.eval()(tokens).logits)


def test_the_layers_to_choose_about_are_all_square_linear_layers_but_the_head() -> None:
    for architecture, params in sampled(space("search"), 60):
        plain: Any = replace(architecture, identities=()).build(make)
        square = {
            name
            for name, layer in plain.named_modules()
            if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features
        }
        assert set(params) - set(DIMENSIONS) == square
        assert set(architecture.identities) == {n for n in square if params[n] == "identity"}


def test_identities_stand_where_they_were_chosen_and_the_model_trains() -> None:
    dropped = 0
    for architecture, _ in sampled(space("search"), 20):
        model: Any = architecture.build(make)
        modules = dict(model.named_modules())
        found = {name for name, module in modules.items() if isinstance(module, nn.Identity)}
        assert found == set(architecture.identities)
        assert all(module.training for module in modules.values())
        logits = model(torch.randint(50, (3, 6))).logits
        assert logits.shape == (3, 2)
        logits.square().sum().backward()
        dropped += len(found)
    assert dropped > 20


def test_parameters_of_trials_are_strings_and_whole_numbers() -> None:
    for _, params in sampled(space("search"), 20):
        assert {type(value) for value in params.values()} == {int, str}


def test_an_architecture_is_read_back_from_what_a_trial_stores() -> None:
    for architecture, _ in sampled(space("search"), 20):
        assert space().read(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_points_count_every_architecture_once() -> None:
    small = space(
        "search", num_hidden_layers=[1], num_attention_heads=[1, 2], intermediate_size=[8, 24]
    )
    # The pooler and four layers of the attention, and two more where all widths agree.
    assert small.points == 2 * (2**7 + 3 * 2**5)
    assert space().points == 24


def test_tpe_takes_conditional_layers() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(lambda trial: -len(space("search").suggest(trial).identities), n_trials=25)
    assert len({json.dumps(t.params, sort_keys=True) for t in study.trials}) > 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": [8, 18]}, "hidden_size=18 is no multiple of num_attention_heads=4"),
        ({"hidden_size": []}, r"hidden_size=\[\] is no list"),
        ({"num_hidden_layers": [0, 1]}, r"num_hidden_layers=\[0, 1\] is no list"),
        ({"intermediate_size": [16, 16]}, r"intermediate_size=\[16, 16\] is no list"),
        ({"identities": "some"}, "identities='some' is neither 'search' nor 'keep'"),
    ],
)
def test_wrong_spaces_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space(**changes)


def test_a_grid_of_layers_that_depend_on_others_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match="identities: keep, or use 'random' or 'tpe'"):
        make_sampler(GridSampler, space("search"), 0)
    big = space(num_hidden_layers=list(range(1, 200)), intermediate_size=list(range(1, 200)))
    with pytest.raises(ValueError, match=r"would enumerate 2\.4e\+05 points"):
        make_sampler(GridSampler, big, 0)
