"""Tiny adapted models of every family, made once: the code under test must leave them as they are."""

import functools

import pytest
import transformers

from metas_peft.testing.tiny import tiny_adapted


@functools.cache
def _network(family, language_model):
    adapted, shape = tiny_adapted(family, language_model=language_model)
    return adapted.get_base_model(), shape


@pytest.fixture(scope="session")
def network():
    """Gives the `transformers` model inside a tiny PEFT model, and its shape, for a family and a task."""
    return _network


@pytest.fixture(scope="session", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
