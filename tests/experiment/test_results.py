"""A finished run: every file and field of the contract, and numbers that agree with what is on disk."""

import json
from types import SimpleNamespace

import numpy as np
import peft
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import metas_peft
from metas_peft import pareto
from metas_peft.backbones.store import WEIGHTS, read_plan
from metas_peft.control.tree import Controller
from metas_peft.core.cost import METRICS
from metas_peft.core.records import ProfileRecord
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost
from metas_peft.devices import open_device
from metas_peft.experiment.results import collapsed
from metas_peft.report import write_report
from metas_peft.tasks import TASKS, load_task
from metas_peft.tuning.data import Collator, predict
from metas_peft.tuning.forms import CLASSES

from .conftest import results_of

POINTS = (0.8, 0.5, 0.3)
TOP = {
    "schema_version", "run_id", "method", "backbone", "task", "task_origin", "task_source", "target_device", "seeds",
    "versions", "quality_metric", "n_validation", "chance_quality", "measurements", "dense", "front", "baselines",
    "hypervolume", "hypervolume_ratio", "budgets", "surrogate", "surrogate_error", "calibration", "controller",
    "ledger", "retargets", "seconds", "notes",
}  # fmt: skip
MEMBER = {
    "key", "name", "quality", *METRICS, "origin", "flops", "flops_fraction", "weight_bytes", "predicted",
    "kept_layers", "kept_heads", "kept_ranks", "kept_ffn", "heads", "ffn_blocks", "attention", "ffn",
    "masked_vs_compact", "model_bytes",
}  # fmt: skip
FIELDS = {
    "measurements": {"training", "calibration", "evaluation"},
    "dense": {"quality", *METRICS, "origin", "flops", "weight_bytes", "predicted"},
    "hypervolume": {"useful", "chance", "budgets"},
    "budgets": {"limits", "met", "notes"},
    "surrogate": {"kind", "why", "pool", "dropped", "n_records", "held_out"},
    "surrogate_error": {"energy", "latency", "power", "n"},
    "calibration": {"method", "points", "alpha", "beta"},
    "controller": {"bytes", "c_header_bytes", "decision_us", "tree_us", "hypervolume_kept", "agreement", "degenerate",
                   "usage", "note"},
    "seconds": {"surrogate", "tuning", "evaluation", "total"},
}  # fmt: skip
FILES = {
    "config.yaml", "results.json", "front.parquet", "records.parquet", "surrogate.safetensors", "gates.safetensors",
    "subnets.json", "adapter", "models", "controller.json", "controller.h",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(main_run):
    return results_of(main_run)


@pytest.fixture(scope="module")
def validation(main_run, settings, backbone):
    """Evaluation texts as the run saw them."""
    from transformers import AutoTokenizer

    data = settings().dataset
    task = load_task("builtin", train_limit=data.train_limit, evaluation_limit=data.evaluation_limit, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    texts = CLASSES.encode(tokenizer, task.validation, data.max_length)
    return texts, Collator(tokenizer.pad_token_id)


def accuracy(model, validation):
    texts, collator = validation
    answers = predict(model, texts, collator).argmax(-1).numpy()
    return float((answers == np.array(texts.labels)).mean())


def shape_of_run(results, backbone):
    from metas_peft.backbones import shape_of

    return shape_of(AutoModelForSequenceClassification.from_pretrained(backbone))


# ---- the contract


def test_folder_has_every_file_of_the_contract(main_run):
    assert {p.name for p in main_run.iterdir()} >= FILES
    assert len(FILES) == 11


def test_results_have_every_field_of_the_contract(results):
    assert set(results) >= TOP
    for name, fields in FIELDS.items():
        assert set(results[name]) >= fields, name
    assert set(results["retargets"]["jetson-nano"]) >= {
        "dense", "front", "baselines", "calibration", "measurements", "surrogate_error", "hypervolume",
        "hypervolume_ratio", "budgets", "meter", "threads",
    }  # fmt: skip
    for baseline in results["baselines"].values():
        assert set(baseline) >= {"label", "setting", "target_measurements", "front", "hypervolume", "seconds", "note"}
    fronts = [results["front"], *(b["front"] for b in results["baselines"].values())]
    for member in (m for front in fronts for m in front):
        assert set(member) >= MEMBER


def test_run_says_what_it_was(results):
    assert (results["method"], results["run_id"], results["seeds"]) == ("MetaS-PEFT", "tiny", [0])
    assert (results["target_device"], results["task_origin"], results["quality_metric"]) == (
        "pixel-8", "synthetic", "accuracy",
    )  # fmt: skip
    assert results["n_validation"] == 40
    assert results["versions"]["torch"] == torch.__version__
    assert results["setting"] == "equal treatment"
    assert set(results["baselines"]) == {"EChorda", "static-lora", "drop-top"}
    assert results["baselines"]["EChorda"]["label"] == "EChorda-style"


# ---- the ledger


def test_nothing_is_measured_while_training_and_five_to_calibrate(results):
    assert results["measurements"]["training"] == 0
    assert results["measurements"]["calibration"] == 5
    assert len(results["calibration"]["points"]) == 5


def test_measurements_of_echorda_are_counted_apart(results):
    assert results["baselines"]["EChorda"]["target_measurements"] == 200
    assert all(results["baselines"][name]["target_measurements"] == 0 for name in ("static-lora", "drop-top"))
    rows = {(r["device"], r["purpose"]): r["count"] for r in results["ledger"]}
    assert rows["pixel-8", "calibration"] == 5
    assert rows["pixel-8", "calibration (EChorda-style)"] == 200
    assert rows["jetson-nano", "calibration"] == 5


def test_each_configuration_is_measured_once_for_evaluation(results):
    fronts = [results["front"], *(b["front"] for b in results["baselines"].values())]
    keys = {m["key"] for front in fronts for m in front}
    assert results["measurements"]["evaluation"] == len(keys)  # static LoRA is the dense model


def test_records_hold_every_measurement_made(main_run, results):
    rows = pq.read_table(main_run / "records.parquet").to_pylist()
    assert len(rows) == sum(r["count"] for r in results["ledger"])
    records = [ProfileRecord.from_row(row) for row in rows]
    assert {(r.device, r.meter.split()[0]) for r in records} == {("pixel-8", "simulated"), ("jetson-nano", "simulated")}
    assert {row["origin"] for row in rows} == {"simulated"}


# ---- what members are


def test_members_are_within_their_operating_points_and_ordered(results):
    assert [m["name"] for m in results["front"]] == ["80 %", "50 %", "30 %"]
    for member, point in zip(results["front"], POINTS, strict=True):
        assert member["flops_fraction"] <= point
        assert member["masked_vs_compact"] < 1e-4
    assert results["front"][0]["flops_fraction"] > 0.6


def test_members_on_disk_are_what_the_results_say(main_run, results, validation, backbone):
    shape = shape_of_run(results, backbone)
    workload = Workload(**results["workload"])
    dense = paper_cost(shape, Counts.dense(shape), workload)
    for member in results["front"]:
        folder = main_run / "models" / member["key"]
        model, plan = metas_peft.load(folder), read_plan(folder)
        subnet = Subnet.from_dict(plan["subnet"])
        counted = paper_cost(shape, Counts.of(subnet, shape), workload)
        assert subnet.key == member["key"]
        assert counted.flops == member["flops"] == pytest.approx(member["flops_fraction"] * dense.flops)
        assert sum(p.numel() for p in model.parameters()) * 4 == member["weight_bytes"]
        assert (folder / WEIGHTS).stat().st_size == member["model_bytes"]
        assert accuracy(model, validation) == member["quality"] == member["scores"]["accuracy"]
        assert (member["kept_layers"], member["kept_heads"], member["kept_ffn"]) == (
            subnet.kept_layers, subnet.kept_heads, subnet.kept_ffn_blocks,
        )  # fmt: skip
        assert np.sum(member["heads"]) == member["kept_heads"]
        assert np.sum(member["ffn_blocks"]) == member["kept_ffn"]
        assert member["attention"] == [int(p.attention) for p in subnet.layers]


def test_heads_of_the_map_are_those_of_the_published_backbone(main_run, results, backbone):
    """Cut from the published weights, the kept rows of the value map are those that the compact model holds.

    Value maps are frozen; only their order and what is merged into them changes, so the biases tell the heads.
    """
    published = AutoModelForSequenceClassification.from_pretrained(backbone)
    member = results["front"][1]
    compact = metas_peft.load(main_run / "models" / member["key"])
    kept = [i for i in range(3) if member["attention"][i] or member["ffn"][i]]
    for place, layer in enumerate(kept):
        if not member["attention"][layer]:
            continue
        whole = published.bert.encoder.layer[layer].attention.self.value.bias.detach().reshape(4, -1)
        mine = compact.bert.encoder.layer[place].attention.self.value.bias.detach().reshape(-1, whole.shape[1])
        found = {int(np.argmin([float((row - w).abs().max()) for w in whole])) for row in mine}
        assert found == {h for h in range(4) if member["heads"][layer][h]}
        assert all(min(float((row - w).abs().max()) for w in whole) == 0 for row in mine)


def test_dense_model_is_the_adapter_on_the_published_backbone_before_the_path(main_run, results, validation, backbone):
    """The adapter that ships is the jointly trained one; on the whole backbone it works, too."""
    published = AutoModelForSequenceClassification.from_pretrained(backbone)
    plain = peft.PeftModel.from_pretrained(published, main_run / "adapter").eval()
    assert 0.0 <= accuracy(plain, validation) <= 1.0
    assert results["adapter_bytes"] == (main_run / "adapter" / "adapter_model.safetensors").stat().st_size
    (dense,) = (main_run / "dense" / "models").iterdir()
    assert accuracy(metas_peft.load(dense), validation) == results["dense"]["quality"]
    assert results["baselines"]["static-lora"]["front"][0]["quality"] == results["dense"]["quality"]


# ---- costs


def test_every_cost_is_called_simulated(results):
    fronts = [[results["dense"]], results["front"], *(b["front"] for b in results["baselines"].values())]
    fronts += [r["front"] for r in results["retargets"].values()]
    origins = {o for front in fronts for m in front for o in m["origin"].values()}
    assert origins == {"simulated"}


def test_measured_costs_are_near_the_simulators_truth(results, main_run, backbone):
    shape, device = shape_of_run(results, backbone), open_device("pixel-8")
    workload = Workload(**results["workload"])
    for member in results["front"]:
        subnet = Subnet.from_dict(read_plan(main_run / "models" / member["key"])["subnet"])
        truth = device.truth_counts(shape, Counts.of(subnet, shape), workload)
        for metric in METRICS:
            assert member[metric] == pytest.approx(float(getattr(truth, metric)), rel=0.08)


def test_surrogate_error_is_recomputed_from_members_and_truth(results, main_run, backbone):
    shape, device = shape_of_run(results, backbone), open_device("pixel-8")
    workload, seen = Workload(**results["workload"]), {p["key"] for p in results["calibration"]["points"]}
    errors = {metric: [] for metric in METRICS}
    dense = {**results["dense"], "key": Subnet.dense(shape).key}
    for member in (dense, *results["front"]):
        if member["key"] in seen:
            continue
        folder = main_run / "models" / member["key"]
        subnet = Subnet.dense(shape) if member is dense else Subnet.from_dict(read_plan(folder)["subnet"])
        truth = device.truth_counts(shape, Counts.of(subnet, shape), workload)
        for metric in METRICS:
            errors[metric].append(abs(member["predicted"][metric] / float(getattr(truth, metric)) - 1) * 100)
    told = results["surrogate_error"]
    assert told["n"] == len(errors["energy_j"])
    assert told["against"] == "noise-free simulator"
    for metric, name in zip(METRICS, ("energy", "latency", "power"), strict=True):
        assert told[name] == pytest.approx(np.mean(errors[metric]), rel=1e-9)
        assert told[name] < 15


def test_volumes_are_those_of_the_measured_points(results):
    dense = results["dense"]
    yardstick = pareto.Yardstick(dense["quality"], np.array([dense[m] for m in METRICS]), results["chance_quality"])
    for front, told in (
        (results["front"], results["hypervolume"]),
        *((b["front"], b["hypervolume"]) for b in results["baselines"].values()),
    ):
        quality = np.array([m["quality"] for m in front])
        cost = np.array([[m[metric] for metric in METRICS] for m in front])
        for kind in ("useful", "chance"):
            assert told[kind] == pytest.approx(pareto.volume(quality, cost, yardstick, kind), rel=1e-12)
        assert told["budgets"] is None


def test_target_is_in_no_pool_and_the_drop_is_told(results):
    assert "pixel-8" not in results["surrogate"]["pool"]
    assert results["surrogate"]["dropped"] == ["pixel-8"]
    assert any("Pixel-8-TPU" in note and "left out" in note for note in results["notes"])


def test_front_table_has_a_row_per_member(main_run, results):
    rows = pq.read_table(main_run / "front.parquet").to_pylist()
    assert [row["key"] for row in rows] == [m["key"] for m in results["front"]]
    for row, member in zip(rows, results["front"], strict=True):
        assert row["latency_ms"] == member["latency_ms"]
        assert row["predicted_energy_j"] == member["predicted"]["energy_j"]
        assert row["origin_power"] == "simulated"


# ---- elsewhere


def test_carrying_over_spends_five_measurements_and_trains_nothing(results):
    elsewhere = results["retargets"]["jetson-nano"]
    fronts = [results["front"], *(b["front"] for b in results["baselines"].values())]
    distinct = {m["key"] for front in fronts for m in front}  # static LoRA's member is the dense model
    assert elsewhere["measurements"] == {"training": 0, "calibration": 5, "evaluation": len(distinct)}
    assert set(elsewhere["baselines"]) == set(results["baselines"])
    for name, baseline in elsewhere["baselines"].items():
        before = results["baselines"][name]["front"]
        assert [m["quality"] for m in baseline["front"]] == [m["quality"] for m in before]
        assert all(a["latency_ms"] != b["latency_ms"] for a, b in zip(before, baseline["front"], strict=True))
        assert baseline["target_measurements"] == 0
    for here, there in zip(results["front"], elsewhere["front"], strict=True):
        assert (here["key"], here["quality"], here["flops"]) == (there["key"], there["quality"], there["flops"])
        assert here["latency_ms"] != there["latency_ms"]
    assert elsewhere["surrogate_error"]["n"] > 0


# ---- controller and report


def test_controller_on_disk_is_the_one_described(main_run, results):
    stored = Controller.from_dict(json.loads((main_run / "controller.json").read_text()))
    assert [s.key for s in stored.members] == [m["key"] for m in results["front"]]
    assert results["controller"]["bytes"] <= 1024
    assert sum(results["controller"]["usage"].values()) == pytest.approx(1.0)
    assert (main_run / "controller.h").stat().st_size == results["controller"]["c_header_bytes"]


def test_report_of_the_run_is_drawn(main_run):
    page = write_report(main_run).read_text()
    assert "MetaS-PEFT" in page
    assert "EChorda-style" in page
    assert "simulated" in page


def test_members_that_answer_everything_alike_are_named():
    def front(name, *members):
        return SimpleNamespace(name=name, members=[SimpleNamespace(name=m) for m in members])

    outcome = SimpleNamespace(
        judge=TASKS["builtin"],
        fronts={"MetaS-PEFT": front("MetaS-PEFT", "50 %"), "EChorda": front("EChorda", "50 %", "30 %")},
        answers={"MetaS-PEFT": np.array([[0, 1, 1]]), "EChorda": np.array([[0, 1, 0], [1, 1, 1]])},
    )
    (note,) = collapsed(outcome)
    assert note.startswith("EChorda-style: 30 % answers every text alike")
