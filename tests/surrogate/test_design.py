import dataclasses

import numpy as np
import pytest

from metas_peft.core.cost import PaperCost
from metas_peft.surrogate import design
from metas_peft.surrogate.design import d_optimal


@pytest.fixture
def papers(paper: PaperCost[float]) -> list[PaperCost[float]]:
    flops = [5e8, 1e8, 9e8, 3e8, 7e8, 2e8, 8e8, 4e8, 6e8]
    return [dataclasses.replace(paper, flops=f) for f in flops]


def test_quantiles_span_the_range_of_flops(papers: list[PaperCost[float]]) -> None:
    chosen = design(papers, 5, "quantiles")
    assert sorted(papers[i].flops for i in chosen) == [1e8, 3e8, 5e8, 7e8, 9e8]


def test_quantiles_are_distinct_when_all_flops_are_equal(paper: PaperCost[float]) -> None:
    assert len(set(design([paper] * 5, 5, "quantiles"))) == 5


def test_random_is_decided_by_its_seed(papers: list[PaperCost[float]]) -> None:
    draws = {tuple(design(papers, 5, "random", seed=s)) for s in range(20)}
    assert len(draws) > 10
    assert design(papers, 5, "random", seed=3) == design(papers, 5, "random", seed=3)
    assert all(len(set(d)) == 5 for d in draws)


def test_design_refuses_more_than_there_are(papers: list[PaperCost[float]]) -> None:
    with pytest.raises(ValueError, match="10 of 9 candidates"):
        design(papers, 10)


def test_d_optimal_takes_the_rows_that_differ_in_kind() -> None:
    rng = np.random.default_rng(0)
    alike = np.array([1.0, 1.0, 1.0]) * rng.uniform(0.5, 2.0, (40, 1)) + 0.01 * rng.random((40, 3))
    terms = np.concatenate([alike, 3 * np.eye(3) + 0.01])
    assert set(d_optimal(terms, 3)) == {40, 41, 42}


def test_d_optimal_ignores_the_size_of_rows_and_never_repeats_one() -> None:
    rng = np.random.default_rng(1)
    terms = rng.lognormal(0, 1, (30, 4))
    chosen = d_optimal(terms, 12)
    assert chosen == d_optimal(terms * rng.uniform(0.1, 10, (30, 1)), 12)
    assert len(set(chosen)) == 12
