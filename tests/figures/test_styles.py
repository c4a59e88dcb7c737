"""Colours and lines: no two names of a figure look alike."""

from hypothesis import given
from hypothesis import strategies as st

from lightning_adls.figures.styles import FORMATS, OTHERS, styles
from lightning_adls.formats import NumberFormat

PALETTE = {style.color for style in OTHERS}
KNOWN = st.lists(st.sampled_from(sorted(FORMATS)), max_size=8, unique=True)
UNKNOWN = st.lists(st.text("abc", min_size=1), max_size=8, unique=True)


@given(KNOWN, UNKNOWN, st.randoms())
def test_a_name_of_no_format_has_a_colour_of_its_own_or_a_line_that_its_colour_has_not(
    known: list[str], unknown: list[str], random: object
) -> None:
    names = [*known, *unknown]
    random.shuffle(names)  # type: ignore[attr-defined]
    found = styles(names)
    assert list(found) == names
    assert found == styles(names)
    for name in known:
        assert found[name] == FORMATS[name]
    colors = {found[name].color for name in known}
    for number, name in enumerate([name for name in names if name in unknown]):
        others = [found[other] for other in names if other != name]
        assert found[name].color in PALETTE
        assert (found[name].color, found[name].line) not in {(o.color, o.line) for o in others}
        if number < len(PALETTE - colors):
            assert found[name].color not in colors


def test_formats_have_the_colour_of_their_family_whatever_else_is_shown() -> None:
    for name in NumberFormat.classes.keys() & FORMATS.keys():
        assert styles(["mine", name])[name] == styles([name])[name]


def test_of_more_names_than_styles_each_has_one() -> None:
    assert len(styles(str(number) for number in range(60))) == 60
