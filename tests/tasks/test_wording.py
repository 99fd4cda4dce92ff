"""How close an answer is to a reference: worked by hand, and against the usual table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.tasks.wording import exact_match, longest_common_subsequence, plain, rouge_l


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("the cat sat", ["the cat sat"], 1.0),
        ("The cat, sat!", ["the CAT sat"], 1.0),
        ("police killed the gunman", ["police kill the gunman"], 0.75),  # three of four words in order
        ("the gunman kill police", ["police kill the gunman"], 0.5),  # two in order, of four and four
        ("a b c d e", ["a c e"], 2 * 3 / (5 + 3)),
        ("x a y b z", ["a b"], 2 * 2 / (5 + 2)),
        ("yes", ["no", "yes it is", "yes"], 1.0),
        ("yes it", ["no", "yes it is"], 2 * 2 / (2 + 3)),
        ("", ["something"], 0.0),
        ("...", ["something"], 0.0),
        ("Über Straße", ["über straße"], 1.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(text, references, expected):
    assert rouge_l(text, references) == pytest.approx(expected, rel=1e-12)


def by_table(first, second):
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=90), st.lists(st.sampled_from("abcd"), max_size=90))
def test_common_subsequence_agrees_with_the_table(first, second):
    assert longest_common_subsequence(first, second) == by_table(first, second)


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("Paris", ["paris."], 1.0),
        ("  The  answer\nis A. ", ["the answer is a"], 1.0),
        ("Paris", ["London", "PARIS!"], 1.0),
        ("Paris, France", ["Paris"], 0.0),
        ("", ["Paris"], 0.0),
        ("1,000", ["1000"], 1.0),
        ("It is 3.", ["it is 3"], 1.0),
        ("5", ["-5"], 0.0),
        ("COVID-19", ["covid19"], 1.0),
        ("no.1", ["no1"], 1.0),
        ("15", ["1.5"], 0.0),
        ("-.5", [".5"], 0.0),
        ("-", ["+"], 0.0),
        ("", [">"], 0.0),
        (">", [">"], 1.0),
    ],
)
def test_exact_match_looks_past_capitals_punctuation_and_white_space(text, references, expected):
    assert exact_match(text, references) == expected


def test_plain_text_keeps_words_apart():
    assert plain("A well-known,  text") == "a wellknown text"
