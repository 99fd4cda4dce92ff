"""The bench compares like with like, and invents nothing."""

import dataclasses
import json
import shutil

import pytest

from metas_peft.backbones.store import plan_digest
from metas_peft.core.cost import Cost, Origin
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CheckpointError, ExportError, UsageError
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import Device, TimingRules
from metas_peft.devices.base import make_record, stacked_papers
from metas_peft.export import backends
from metas_peft.export.backends import BACKENDS, prepare, usual_backends
from metas_peft.export.bench import Bench
from metas_peft.export.members import dense_of, find_member, members_of

RULES = TimingRules(seconds_per_subject=0.2, trial_s=0.002, warm_up_s=0.005)
WORKLOAD = Workload(batch_size=2, seq_len=16)


@pytest.fixture(scope="module")
def table(front):
    return Bench(members_of(front()), dense_of(front()), rules=RULES).run("torch", WORKLOAD)


def test_rows_are_the_dense_model_and_every_member(table, front):
    assert [row.member for row in table.rows] == ["dense", "60 %", "30 %"]
    assert (table.backend, table.batch_size, table.seq_len, table.threads) == ("torch", 2, 16, 1)
    first = table.rows[0]
    assert (first.flops_fraction, first.speed_up, first.speed_by_size) == (1.0, 1.0, 1.0)
    assert table.noise_pct >= 0
    assert first.known_to_pct == 0.0
    assert all(row.known_to_pct > 0 for row in table.rows[1:])


def test_figures_of_a_row_agree_with_one_another(table):
    dense = table.rows[0]
    for row in table.rows:
        assert row.speed_up == pytest.approx(dense.latency_ms / row.latency_ms)
        assert row.speed_by_size == pytest.approx(row.speed_up * row.flops_fraction)
        assert row.sequences_per_s == pytest.approx(2000.0 / row.latency_ms)
    sizes = [row.size_bytes for row in table.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_flops_are_those_of_the_workload(table, front):
    bench = Bench(members_of(front()))
    member = find_member(front(), "30 %")
    counted = [
        float(paper_cost(bench.shape, counts, WORKLOAD).flops)
        for counts in (Counts.of(member.subnet, bench.shape), Counts.dense(bench.shape))
    ]
    assert table.rows[2].flops_fraction == pytest.approx(counted[0] / counted[1])


def test_energy_without_a_meter_is_none(table):
    if table.meter is not None:
        pytest.skip(f"this computer has a meter: {table.meter}")
    assert {row.energy_j for row in table.rows} == {None}


class Board(Device):
    """A computer with a meter: every pass takes 4 ms and 2 J."""

    def _measure(self, specimens, workload, purpose, seed):
        for specimen in specimens:
            specimen.open(workload)()
        cost, origin = Cost(2.0, 4.0, None), Cost(Origin.MEASURED, Origin.MEASURED, None)
        papers = stacked_papers(specimens, workload)
        return [
            make_record(self.spec, specimen, workload, paper, cost, origin, meter="board")
            for specimen, paper in zip(specimens, papers, strict=True)
        ]


def test_energy_of_a_meter_is_shown(front, monkeypatch):
    from metas_peft.export import bench

    opened = []

    def open_board(name, *, power, runtime, threads, rules):
        opened.append((name, power, runtime, threads))
        return Board(DeviceSpec("local", "x", "cpu", runtime, None, None, None, None, threads), meters=("board",))

    monkeypatch.setattr(bench, "open_device", open_board)
    table = Bench([find_member(front(), "30 %")], dense_of(front()), rules=RULES).run("torch", WORKLOAD)
    assert (table.meter, opened) == ("board", [("local", "meter", "pytorch_cpu", 1)])
    assert [(row.energy_j, row.speed_up) for row in table.rows] == [(2.0, 1.0), (2.0, 1.0)]


def test_member_of_another_backbone_is_refused(front):
    with pytest.raises(UsageError, match="different backbones"):
        Bench([find_member(front(), "30 %"), find_member(front("llama"), "30 %")])


@pytest.mark.parametrize("change", [{"architecture": "pipeline"}, {"config": {"hidden_size": -1}}, {"config": 3}])
def test_plan_that_describes_no_backbone_is_refused(front, tmp_path, change):
    folder = shutil.copytree(find_member(front(), "30 %").folder, tmp_path / "member")
    plan = json.loads((folder / "plan.json").read_text()) | change
    (folder / "plan.json").write_text(json.dumps(plan | {"digest": plan_digest(plan)}))
    with pytest.raises(CheckpointError, match="describes no backbone"):
        Bench(members_of(folder))


def test_more_tokens_than_the_model_reads_are_refused(front):
    with pytest.raises(UsageError, match="at most 64 tokens, not 65"):
        Bench(members_of(front())).run("torch", Workload(seq_len=65))


def test_decoding_is_refused(front, tmp_path):
    with pytest.raises(UsageError, match="metas profile"):
        prepare(BACKENDS["torch"], Workload(phase="decode"), lambda: None, tmp_path / "x", 1)


def test_absent_packages_leave_torch(monkeypatch):
    monkeypatch.setattr(backends, "missing_packages", lambda: ["onnx"])
    assert usual_backends() == ["torch"]
    monkeypatch.setattr(backends, "missing_packages", list)
    assert usual_backends() == ["torch", "onnx", "onnx-int8"]


def test_backend_without_its_package_says_so(front, monkeypatch):
    from metas_peft.export import onnx

    monkeypatch.setattr(onnx, "missing_packages", lambda: ["onnxscript"])
    with pytest.raises(ExportError, match="needs onnxscript"):
        Bench(members_of(front()), rules=RULES).run("onnx", WORKLOAD)


def test_int8_is_compared_with_int8_from_files_made_once(front, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the packages of the extra `onnx` are not installed")
    bench = Bench([find_member(front(), "30 %")], dense_of(front()), rules=RULES, files=tmp_path)
    tables = {name: bench.run(name, WORKLOAD) for name in ("onnx", "onnx-int8")}
    assert len(list(tmp_path.iterdir())) == 4  # two models in two formats
    monkeypatch.setattr(backends, "export_onnx", lambda *a, **k: pytest.fail("exported again"))
    monkeypatch.setattr(backends, "quantise", lambda *a, **k: pytest.fail("quantised again"))
    bench.run("onnx-int8", dataclasses.replace(WORKLOAD, batch_size=1))
    for plain, small in zip(tables["onnx"].rows, tables["onnx-int8"].rows, strict=True):
        assert (plain.member, plain.flops_fraction) == (small.member, small.flops_fraction)
        assert plain.size_bytes > small.size_bytes
    assert {table.rows[0].speed_up for table in tables.values()} == {1.0}
