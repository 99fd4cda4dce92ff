"""Joint training: what it draws, and what its loss is."""

import pytest
import torch

from metas_peft.backbones import nested
from metas_peft.core.subnet import Subnet
from metas_peft.testing.tiny import tiny_adapted
from metas_peft.tuning.joint import JointObjective


class Visits:
    """Notes the subnet that was active when the loss was asked for; its loss is the number of the visit."""

    def __init__(self, view):
        self.seen, self.view = [], view
        activate = view.activate
        view.activate = lambda subnet: (setattr(self, "active", subnet), activate(subnet))[1]

    def loss(self, model, batch):
        self.seen.append(self.active)
        return torch.tensor(float(len(self.seen)), requires_grad=True)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_joint_training_takes_one_member_of_each_half_and_reaches_all(count):
    adapted, shape = tiny_adapted("bert")
    members = [Subnet.prefix([4, 4, 4], [12 - i] * 3) for i in range(count)]
    with nested(adapted.get_base_model(), shape) as view:
        visits = Visits(view)
        objective = JointObjective(view, visits, members, members, seed=0)
        for _ in range(60):
            objective.loss(None, {})
    middle = max(1, count // 2)
    upper, lower = members[:middle], members[middle:]
    assert set(visits.seen) == set(members)
    if not lower:
        assert len(visits.seen) == 60
        return
    assert len(visits.seen) == 120
    assert all(s in upper for s in visits.seen[0::2])
    assert all(s in lower for s in visits.seen[1::2])


def test_joint_training_draws_what_ships_in_most_of_its_draws():
    adapted, shape = tiny_adapted("bert")
    members = [Subnet.prefix([4, 4, 4], [12 - i] * 3) for i in range(12)]
    shipped = [members[0], members[3], members[11]]
    with nested(adapted.get_base_model(), shape) as view:
        visits = Visits(view)
        objective = JointObjective(view, visits, members, shipped, seed=0)
        for _ in range(600):
            objective.loss(None, {})
    # Three quarters of the draws are of the shipped ones alone, the others of all six of a half of the members.
    share = [sum(s in shipped for s in visits.seen[half::2]) / 600 for half in (0, 1)]
    assert share == pytest.approx([0.75 + 0.25 * 2 / 6, 0.75 + 0.25 * 1 / 6], abs=0.05)
    assert set(visits.seen) == set(members)


def test_joint_loss_is_the_mean_of_the_two_halves():
    adapted, shape = tiny_adapted("bert")
    members = [Subnet.prefix([4, 4, 4], [12 - i] * 3) for i in range(4)]
    with nested(adapted.get_base_model(), shape) as view:
        objective = JointObjective(view, Visits(view), members, members, seed=0)
        assert [float(objective.loss(None, {}).detach()) for _ in range(3)] == [1.5, 3.5, 5.5]


def test_joint_training_follows_its_seed():
    adapted, shape = tiny_adapted("bert")
    members = [Subnet.prefix([4, 4, 4], [12 - i] * 3) for i in range(6)]

    def order(seed):
        with nested(adapted.get_base_model(), shape) as view:
            visits = Visits(view)
            objective = JointObjective(view, visits, members, members, seed)
            for _ in range(10):
                objective.loss(None, {})
        return visits.seen

    assert order(1) == order(1)
    assert order(1) != order(2)
