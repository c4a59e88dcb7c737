"""Variants: their names, and what is refused."""

import pytest

from lightning_adls.bench import Variant


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (Variant(dtype="bfloat16"), "eager bfloat16"),
        (Variant("eager"), "compiled eager float32"),
        (Variant("inductor", "reduce-overhead"), "compiled inductor reduce-overhead float32"),
        (Variant("aot_eager", dynamic=True), "compiled aot_eager dynamic float32"),
        (Variant("inductor", dynamic=False), "compiled inductor static float32"),
    ],
    ids=str,
)
def test_a_name_says_all_that_differs(variant: Variant, name: str) -> None:
    assert str(variant) == name
    variant.check()


def test_a_mode_is_named_behind_its_backend() -> None:
    assert Variant.parse("inductor max-autotune") == Variant("inductor", "max-autotune")
    assert Variant.parse("eager", "bfloat16", True) == Variant("eager", None, True, "bfloat16")
    with pytest.raises(ValueError, match="mode='fast' is for backend='inductor', not 'eager'"):
        Variant.parse("eager fast")


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype='int8' is none of float32, bfloat16, float16"):
        Variant(dtype="int8")
    with pytest.raises(ValueError, match="mode='default' is for backend='inductor', not None"):
        Variant(mode="default")
    with pytest.raises(ValueError, match="mode='default' is for backend='inductor', not 'eager'"):
        Variant("eager", mode="default")
    with pytest.raises(ValueError, match="dynamic=True needs a backend"):
        Variant(dynamic=True)


def test_unknown_names_are_refused_with_those_that_torch_has() -> None:
    with pytest.raises(ValueError, match=r"backend='inducer' is unknown; torch has .*inductor"):
        Variant("inducer").check()
    with pytest.raises(ValueError, match=r"mode='fast' is unknown; inductor has .*max-autotune"):
        Variant("inductor", mode="fast").check()
