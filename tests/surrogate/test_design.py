import dataclasses

import pytest

from metas_peft.core.records import PaperCost
from metas_peft.surrogate import design


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
