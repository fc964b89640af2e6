import math

import pytest

from analysis.page.markdown import code, counted, duration, escaped, listed, number, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12.0, "12"),
        (0.123456, "0.1235"),
        (1234.56, "1235"),
        (1.5e-7, "1.5e-07"),
        (math.nan, "-"),
        (None, "-"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_four_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_nothing_that_a_user_writes_opens_a_tag_a_link_or_a_cell() -> None:
    assert escaped("a|b <i>\n[x](y) `z` *w*") == r"a\|b &lt;i&gt; \[x\](y) \`z\` \*w\*"
    assert code("a|b`c\nd") == r"`a\|b'c d`"


def test_a_table_aligns_numbers_right() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (59.7, "1 min 0 s"), (61, "1 min 1 s"), (7320, "2 h 2 min")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_and_lists_read_as_sentences() -> None:
    assert (counted(1, "trial"), counted(2000, "trial")) == ("1 trial", "2,000 trials")
    assert (listed([]), listed(["a"]), listed(["a", "b", "c"])) == ("", "a", "a, b and c")
