"""What a run's folder offers, and which five are measured."""

import numpy as np
import pytest
import torch

from metas_peft.backbones.store import backbone_of, load, read_plan, save_compact
from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import read_json, write_json
from metas_peft.deploy.candidates import BETWEEN, EVALUATED, HELD_OUT, open_run, points_to_measure
from metas_peft.export.members import members_of


def change(folder, name, **values):
    write_json(folder / name, {**read_json(folder / name), **values})


def test_members_and_what_lies_between_them_are_offered(run):
    assert len(run.candidates) == 6
    sizes = [c.flops_fraction for c in run.candidates]
    assert sizes == sorted(sizes, reverse=True)
    assert [c.quality_of for c in run.candidates] == [HELD_OUT, *[BETWEEN] * 4, HELD_OUT]
    assert [run.candidates[i].name for i in (0, -1)] == ["60 %", "30 %"]
    assert run.notes == []


def test_quality_is_of_held_out_texts_and_between_its_neighbours(run):
    quality = np.array([c.quality for c in run.candidates])
    assert (quality[0], quality[-1]) == (0.91, 0.85)
    assert (np.diff(quality) < 0).all()


def test_quality_is_of_evaluation_texts_where_nothing_was_held_out(folder):
    change(folder, "results.json", controller=None)
    run = open_run(folder)
    assert (run.candidates[0].quality, run.candidates[0].quality_of) == (0.90, EVALUATED)
    assert len(run.notes) == 1
    assert "no quality on held-out texts" in run.notes[0]


def test_five_points_are_spread_over_what_may_be_deployed(run):
    points = points_to_measure(run, 0)
    keys = [p.subnet.key for p in points]
    assert len(set(keys)) == 5
    assert {run.candidates[0].subnet.key, run.candidates[-1].subnet.key} <= set(keys)


def test_a_front_without_a_path_takes_the_dense_model_and_untrained_ones(folder):
    change(folder, "subnets.json", path=[])
    run = open_run(folder)
    assert len(run.candidates) == 2
    points = points_to_measure(run, 0)
    assert len({p.subnet.key for p in points}) == 5
    assert sum("untrained" in p.name for p in points) == 2
    assert any(p.name == "dense" for p in points)
    for point in points:
        assert sum(t.numel() for t in point.open().parameters()) > 0


def test_members_trained_on_their_own_leave_nothing_between(folder):
    member = members_of(folder)[1]
    model = load(member.folder)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    plan = read_plan(member.folder)
    save_compact(model, backbone_of(plan)[1], member.subnet, member.folder, plan["about"])
    run = open_run(folder)
    assert len(run.candidates) == 2
    assert "no prefixes of its largest one" in run.notes[0]


def test_a_folder_without_a_run_an_unfinished_one_and_one_without_a_front_are_told_apart(folder, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        open_run(tmp_path / "nothing")
    change(folder, "results.json", front=[])
    with pytest.raises(CheckpointError, match="has no front"):
        open_run(folder)
    (folder / "results.json").unlink()
    with pytest.raises(CheckpointError, match="has not finished"):
        open_run(folder)


@pytest.mark.parametrize(("key", "value"), [("workload", None), ("workload", {"tokens": 3})])
def test_results_without_a_workload_are_refused(folder, key, value):
    change(folder, "results.json", **{key: value})
    with pytest.raises(CheckpointError, match="workload"):
        open_run(folder)
