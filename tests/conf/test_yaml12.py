"""YAML reading: scalars of version 1.2, places of keys, and sentences for what is wrong."""

import math

import pytest

from metas_peft.conf import yaml12
from metas_peft.core.errors import RunFileError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("10", 10),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-11-22", "2026-11-22"),
        ("'2e-5'", "2e-5"),
        ("1.2.3", "1.2.3"),
        ("-.inf", -math.inf),
    ],
)
def test_scalar_means_what_yaml_1_2_says(text, value):
    read = yaml12.parse(f"a: {text}", "f").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_key_given_twice_is_refused_with_both_lines():
    with pytest.raises(RunFileError, match=r"f, line 4, column 3: the key 'training\.seed' .* on line 2"):
        yaml12.parse("training:\n  seed: 1\n  epochs: 2\n  seed: 3\n", "f")


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2"),
        ("a: 1\n b: 2\n", "line 2, column 3"),
        ("a: 'x\n", "line 2, column 1"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ("- 1\n", "line 1, column 1"),
        ("a: 1\n\x07b: 2\n", "line 2, column 1"),
        ("a: !!python/name:os.system x\n", "line 1, column 4"),
        ("? [1]\n: 2\n", "line 1, column 3"),
        ("a: &x\n  b: *x\n", "line 1, column 4"),
    ],
)
def test_broken_text_is_refused_with_line_and_column(text, spot):
    with pytest.raises(RunFileError, match=f"^f, {spot}: "):
        yaml12.parse(text, "f")


def test_empty_file_is_refused():
    with pytest.raises(RunFileError, match="f is empty"):
        yaml12.parse("# nothing\n", "f")


def test_file_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(RunFileError, match="line 2: the file is not UTF-8"):
        yaml12.read(path)


def test_merge_keys_are_followed_and_overridden():
    text = "base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\n"
    assert yaml12.parse(text, "f").data["other"] == {"x": 1, "y": 3}


def test_where_names_the_line_of_the_nearest_key():
    document = yaml12.parse("a:\n  b:\n    c: 1\n", "f")
    assert document.where(("a", "b", "c")) == "f, line 3"
    assert document.where(("a", "b", "absent")) == "f, line 2"
    assert document.where(("absent",)) == "f"


def test_written_values_are_read_back_as_they_were():
    data = {"a": 2e-5, "b": "2e-5", "c": "on", "d": "010", "e": None, "f": ["x: y", True, 1], "g": {"h": "ü"}, "i": ""}
    assert yaml12.parse(yaml12.write(data), "f").data == data
