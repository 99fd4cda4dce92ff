"""Sets of kept indices in bits: each way reads back what it wrote, and the shortest is taken."""

import numpy as np
import pytest

from metas_peft.control.fields import COUNTS, LEVELS, MASKS, Bits, Field

Sets = list[list[tuple[int, ...]]]


def prefixes(seed: int, members: int = 8, places: int = 32, units: int = 32) -> Sets:
    """Counts without any order: between members, between places."""
    rng = np.random.default_rng(seed)
    return [[tuple(range(int(rng.integers(0, units + 1)))) for _ in range(places)] for _ in range(members)]


def nested_anyhow(seed: int, members: int = 8, places: int = 32, units: int = 32) -> Sets:
    """Members within one another, units in any order, members too."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, members + 1, (places, units))
    ranks = rng.permutation(members)
    return [[tuple(np.flatnonzero(rank >= row).tolist()) for row in level] for rank in ranks]


def anything(seed: int, members: int = 3, places: int = 4, units: int = 9) -> Sets:
    rng = np.random.default_rng(seed)
    return [[tuple(np.flatnonzero(rng.random(units) < 0.5).tolist()) for _ in range(places)] for _ in range(members)]


@pytest.mark.parametrize(("make", "kind"), [(prefixes, COUNTS), (nested_anyhow, LEVELS), (anything, MASKS)])
@pytest.mark.parametrize("seed", range(4))
def test_fields_read_back_what_they_wrote_in_the_way_that_fits(make, kind, seed) -> None:
    sets = make(seed)
    written = Field.shortest(sets)
    bits = Bits()
    written.write(bits)
    assert written.kind == kind
    assert len(bits.to_bytes()) == (written.size + 7) // 8
    again = Field.read(Bits(bits.to_bytes()), written.kind, written.width, len(sets), len(sets[0]))
    assert again.sets == tuple(tuple(places) for places in sets)


def test_the_shortest_way_is_taken_where_several_fit() -> None:
    chain: Sets = [[(1,)], [(1, 3)], [(0, 1, 3)]]
    assert Field.shortest(chain).kind == MASKS  # 12 bits, against 2 for each of 4 units and 3 ranks
    assert Field.shortest([places * 20 for places in chain]).kind == LEVELS  # 240 bits against 166
    assert Field.shortest([[(0, 1)], [(0, 1, 2, 3, 4)]]).kind == COUNTS


def test_equal_members_and_empty_sets_survive() -> None:
    for sets in ([[(), ()]] * 3, [[(2,), ()]] * 9, [[(0, 1), (5,)]] * 9):
        written = Field.shortest(sets)
        bits = Bits()
        written.write(bits)
        again = Field.read(Bits(bits.to_bytes()), written.kind, written.width, len(sets), 2)
        assert again.sets == tuple(tuple(places) for places in sets)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 3"):
        Field.read(Bits(b"1234"), 3, 4, 1, 1)
