"""What the largest member contains: stored members come out of it as they are, and others as the network gives them."""

import pytest
import torch

from metas_peft.backbones import compact
from metas_peft.backbones.load import load_backbone
from metas_peft.core.subnet import Subnet
from metas_peft.deploy.prefixes import Largest, first_entries
from metas_peft.export.adapter import ordered_network
from metas_peft.export.members import members_of


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2", "modernbert", "deberta"])
def test_members_cut_from_the_largest_are_those_that_the_network_gives(stored, family):
    folder = stored(family)
    members = members_of(folder)
    largest = Largest.open(members[0], "tiny")
    assert largest.gives(members[1])
    network, shape = ordered_network(load_backbone(str(folder / "backbone"), n_labels=2).model, folder / "adapter")
    between = Subnet.prefix([min(h, shape.n_kv_heads) for h in (2, 1, 1)], [6, 4, 1])
    expected, found = compact(network, shape, between).state_dict(), largest.cut(between).state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_cut_members_do_not_share_memory_with_the_largest(stored):
    members = members_of(stored())
    largest = Largest.open(members[0], "tiny")
    before = {n: t.clone() for n, t in largest.model.state_dict().items()}
    with torch.no_grad():
        for tensor in largest.cut(members[1].subnet).parameters():
            tensor.fill_(7.0)
    assert all(torch.equal(t, before[n]) for n, t in largest.model.state_dict().items())


def test_a_member_that_was_trained_on_its_own_is_noticed(stored):
    members = members_of(stored())
    largest = Largest.open(members[0], "tiny")
    with torch.no_grad():
        next(iter(largest.model.parameters()))[0] += 1e-3
    assert not largest.gives(members[1])


def test_what_is_no_prefix_of_the_largest_is_refused(stored):
    members = members_of(stored())
    with pytest.raises(ValueError, match=r"no part of|has no"):
        Largest.open(members[0], "tiny").cut(Subnet.prefix([4, 4, 4], [12, 12, 12]))


def test_first_entries_of_segments():
    whole = torch.arange(24.0).reshape(12, 2)
    assert first_entries(whole, torch.Size([6, 2]), 3)[:, 0].tolist() == [0, 2, 8, 10, 16, 18]
    assert first_entries(whole, torch.Size([3, 1])).tolist() == [[0], [2], [4]]
