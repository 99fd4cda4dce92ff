"""Final answers inside longer ones."""

import pytest

from metas_peft.tasks.numbers import last_boxed, number_after_hashes, plain_mathematics, without_calculations


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7.\n#### 7", "7"),
        ("#### 7\nand then #### 9", "7"),
        ("####7", "7"),
        ("#### $1,234.50", "1234.5"),
        ("#### 1000.0", "1000"),
        ("#### -12 apples", "-12"),
        ("#### 0.00", "0"),
        ("#### .5", "0.5"),
        ("#### 100", "100"),
        ("#### 70,000", "70000"),
        ("#### nothing", ""),
        ("####\n5", ""),
        ("the answer is 7", ""),
        ("", ""),
    ],
)
def test_number_after_hashes_has_one_spelling(text, number):
    assert number_after_hashes(text) == number


def test_calculator_annotations_go():
    assert without_calculations("48/2 = <<48/2=24>>24 clips, <<1+1=2>>2") == "48/2 = 24 clips, 2"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"first \boxed{1}, then \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {x^{2}+\left\{1\right\}}", r"x^{2}+\left\{1\right\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{3} and one that never closes \boxed{4", "3"),
        (r"\boxed{}", ""),
        (r"so $x = \boxed 2$.", "2"),
        (r"$\boxed 12$ apples, $3$ pears", "12"),
        (r"\(\boxed \frac12\) it is", r"\frac12"),
        ("\\boxed 7\nand on", "7"),
        (r"$\boxed{1}$, no, $\boxed 2$", "2"),
        (r"$\boxed 1$, no, $\boxed{2}$", "2"),
        (r"$\boxed{3}$ and $\boxed$", "3"),
        (r"$\boxed \$5$ a day", r"\$5"),
        (r"$\boxed\text{(C)}$", r"\text{(C)}"),
        (r"\boxed{1}, then \fbox{2}", "1"),
        (r"\fbox{\frac{1}{2}} or \fbox 3", "3"),
        (r"\boxedtext{4}", ""),
        ("no box", ""),
    ],
)
def test_box_ends_with_its_own_brace(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\tfrac{3}{4}", "3/4"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"-\frac{1}{2}", r"-\dfrac12"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"10\%", "10"),
        (r"\$12.50", "12.50"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"5 \text{ cm}", "5"),
        (r"\text{(B)}", "(B)"),
        (r"\text{even}", r"\mbox{even}"),
        ("x = 5", "5"),
        (".5", "0.5"),
        ("3.0", "3"),
        ("1,000,000", "1000000"),
        (r"-\$1,234.50 \text{ a day}", "-1234.50"),
        ("n = 12,345", "12345"),
        (r"2\!+\,3", "2+3"),
        ("12.", "12"),
        (r"-\frac{1}{2}", "-1/2"),
        ("10{,}000", "10000"),
        ("(1{,}000,2)", "(1000,2)"),
        (r"30\text{ cm}^2", "30"),
        (r"30 \text{ m}^{3}", "30"),
        (r"2\pi\text{ cm}", r"2\pi"),
        (r"x\text{-axis}", "x-axis"),
        (r"n\text{th}", "nth"),
    ],
)
def test_equal_answers_have_one_spelling(one, other):
    assert plain_mathematics(one) == plain_mathematics(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5", "50"), (r"\frac{1}{2}", r"\frac{2}{1}"), ("(1,2)", "(2,1)"), ("x+y=5", "5"), ("-3", "3"), ("0.5", "0.05"),
     (r"\leftarrow", r"\rightarrow"), ("(1,234)", "(1234)"), ("[0,100]", "[0100]"), ("1,200,300,4", "1200300,4"),
     (r"\{1,234\}", r"\{1234\}"), ("12,34", "1234"), (r"x\text{-axis}", "x"), (r"n\text{th}", "n")],
)  # fmt: skip
def test_different_answers_stay_different(one, other):
    assert plain_mathematics(one) != plain_mathematics(other)
