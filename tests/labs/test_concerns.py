"""Warnings about numbers: said where they are due, once, and where they are not, not."""

import pytest

from lightning_adls.data import TextData
from lightning_adls.labs import concerns


def test_too_few_rows_to_validate_on_are_warned_of() -> None:
    train = {"negative": 500, "positive": 500}
    (few,) = concerns.about_counts(train, {"negative": 100, "positive": 99})
    assert few.startswith("199 rows validate")
    assert "0.035" in few
    assert "--data.limit_val" in few
    assert concerns.about_counts(train, {"negative": 100, "positive": 100}) == []


def test_classes_that_never_occur_are_named_with_their_split() -> None:
    some, none = {"a": 300, "b": 1, "c": 0}, {"a": 300, "b": 0, "c": 0}
    lines = concerns.about_counts(some, none)
    assert [line.partition(";")[0] for line in lines] == [
        "no row of the training split is of class c",
        "no row of the validation split is of class b, c",
    ]
    assert ["--data.limit_train" in line for line in lines] == [True, False]


def test_classes_are_counted_in_the_splits_that_were_set_up(texts: TextData) -> None:
    assert sum(texts.class_counts("train").values()) == 96
    assert sum(texts.class_counts("val").values()) == 64
    assert list(texts.class_counts("val")) == texts.class_names
    assert texts.class_counts("test") == {}
    assert [line[:16] for line in concerns.about_data(texts)] == ["64 rows validate"]


@pytest.mark.parametrize(
    ("accuracy", "warned"), [(0.5, True), (0.52, True), (0.4, True), (0.55, False), (0.9, False)]
)
def test_a_start_at_chance_is_warned_of(accuracy: float, warned: bool) -> None:
    # 1.96 standard errors of 1,000 rows are 0.031.
    assert bool(concerns.about_start(accuracy, {"a": 500, "b": 500})) == warned


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert concerns.about_start(0.8, {"a": 800, "b": 200})
    assert not concerns.about_start(0.8, {"a": 500, "b": 500})


@pytest.mark.parametrize(("test", "far"), [(0.9, False), (0.85, False), (0.6, True), (0.99, True)])
def test_a_test_accuracy_far_from_validation_is_warned_of(
    texts: TextData, monkeypatch: pytest.MonkeyPatch, test: float, far: bool
) -> None:
    assert concerns.about_test("best", 0.9, 0.1, texts) == [], "its test split is not set up"
    monkeypatch.setattr(texts, "class_counts", lambda part: {"a": 250, "b": 250})
    assert bool(concerns.about_test("best", 0.9, test, texts)) == far


def test_searches_that_vary_within_a_standard_error_are_named_together() -> None:
    flat, spread = [0.80, 0.81, 0.805], [0.60, 0.81]
    # 0.0176 with 500 rows.
    (line,) = concerns.about_spread({"A": flat, "B": spread, "C": flat, "D": [0.8]}, 500)
    assert line.startswith("A, C: ")
    assert concerns.about_spread({"A": flat, "B": spread}, 50_000) == []


def test_nothing_is_said_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concerns, "_said", set())
    concerns.say(["one", "two"])
    concerns.say(["two", "three"])
    assert capsys.readouterr().err.splitlines() == [
        "warning: one",
        "warning: two",
        "warning: three",
    ]
