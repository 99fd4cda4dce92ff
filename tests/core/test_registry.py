"""Names, their spellings, and what a typing error is answered with."""

import pytest

from metas_peft.core import errors
from metas_peft.core.errors import MetasPeftError, UnknownNameError, nearest
from metas_peft.core.registry import Registry, canonical


@pytest.fixture
def registry():
    found: Registry[int] = Registry("method")
    found.add("MetaS-PEFT", 1, ("proposed",))
    found.add("EChorda", 2, ("comparative-1",))
    return found


@pytest.mark.parametrize("spelling", ["MetaS-PEFT", "metas_peft", "METAS PEFT", "proposed", "Proposed "])
def test_name_is_found_under_every_spelling(registry, spelling):
    assert registry.resolve(spelling) == "MetaS-PEFT"
    assert registry[spelling] == 1
    assert spelling in registry


def test_unknown_name_is_answered_with_the_nearest_and_all(registry):
    with pytest.raises(UnknownNameError, match=r"Unknown method 'echord': did you mean 'EChorda'\? Known: EChorda, Me"):
        registry["echord"]
    assert "echord" not in registry


def test_nearest_alias_names_what_it_stands_for(registry):
    with pytest.raises(UnknownNameError, match="did you mean 'EChorda'"):
        registry["comparativ-1"]


@pytest.mark.parametrize(("name", "aliases"), [("metas peft", ()), ("New", ("Proposed",)), ("New", ("EChorda",))])
def test_spelling_that_is_taken_is_a_programming_error(registry, name, aliases):
    with pytest.raises(ValueError, match="registered twice"):
        registry.add(name, 3, aliases)


def test_listing_has_every_entry_once(registry):
    assert list(registry) == ["MetaS-PEFT", "EChorda"]
    assert len(registry) == 2
    assert registry.aliases("proposed") == ["proposed"]


def test_canonical_spelling_joins_what_is_no_letter_or_digit():
    assert canonical("  Jetson_Orin  NX!") == "jetson-orin-nx"


def test_far_off_names_get_no_hint():
    assert nearest("zzz", ["minilm", "roberta"]) == "Known: minilm, roberta."


def test_every_error_has_the_one_root_and_says_what_caused_it():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) >= 20
    for error in found:
        assert issubclass(error, MetasPeftError)
        assert error.__doc__
