"""Comparisons of runs: what is beside what, means, intervals, tests, and the files they become."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from metas_peft import pareto
from metas_peft.core.errors import CheckpointError
from metas_peft.report.compare import as_plain, compare
from metas_peft.report.compare_entries import find_runs, read_entries
from metas_peft.report.compare_page import all_tables, render, write_comparison
from metas_peft.report.compare_statistics import REDRAWN, Bootstrap, paired, quality_of
from metas_peft.report.compare_tables import cell_tables, latex, markdown
from metas_peft.tasks.metrics import confusion, matthews

from .conftest import realistic_results

E = 400


def answers_with(rng, labels, qualities):
    """Predicted classes that are right as often as wished."""
    rows = []
    for quality in qualities:
        row = labels.copy()
        wrong = rng.permutation(E)[: round((1 - quality) * E)]
        row[wrong] = 1 - row[wrong]
        rows.append(row)
    return np.stack(rows)


@pytest.fixture
def make_run(tmp_path):
    """Writes a run whose qualities are those of its answers; gives its folder."""

    def make(name, *, method="MetaS-PEFT", seed=0, shift=0.0, config=None, baselines=False, answers=True, **changes):
        data = realistic_results()
        rng = np.random.default_rng([seed, len(method)])
        labels = np.random.default_rng(1).integers(0, 2, E)
        qualities = [p["quality"] - shift for p in data["front"]]
        found = {"dense": answers_with(rng, labels, [data["dense"]["quality"]]),
                 method: answers_with(rng, labels, qualities)}  # fmt: skip
        if not baselines:
            data["baselines"], data["hypervolume_ratio"] = {}, {}
        for rival, entry in data["baselines"].items():
            found[rival] = answers_with(rng, labels, [p["quality"] for p in entry["front"]])
            for point, row in zip(entry["front"], found[rival], strict=True):
                point["quality"] = float((row == labels).mean())
        data["dense"]["quality"] = float((found["dense"][0] == labels).mean())
        for point, row in zip(data["front"], found[method], strict=True):
            point["quality"] = float((row == labels).mean())
        data |= {"run_id": name, "method": method, "seeds": [seed], "n_validation": E, "retargets": {}, **changes}
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(data))
        (folder / "config.yaml").write_text(yaml.safe_dump(config or {"training": {"seed": seed, "num_epochs": 2}}))
        if answers:
            np.savez(folder / "answers.npz", allow_pickle=False, labels=labels, **found)
        return folder

    return make


@pytest.fixture
def study(make_run, tmp_path):
    """Two methods, three seeds each; the rival is three points behind."""
    for seed in range(3):
        make_run(f"ours-{seed}", seed=seed)
        make_run(f"rival-{seed}", method="EChorda-style", seed=seed, shift=0.03)
    return tmp_path / "runs"


def test_methods_of_a_cell_are_means_over_their_seeds(study):
    (cell,) = compare([study], draws=50)
    ours, rival = cell.methods
    assert (ours.name, rival.name) == ("MetaS-PEFT", "EChorda-style")
    assert ours.seeds == rival.seeds == (0, 1, 2)
    expected = []
    for entry in ours.entries:
        yardsticks = [e for m in cell.methods for e in m.entries if e.seed == entry.seed]
        dense = np.mean([e.dense.quality for e in yardsticks])
        yardstick = pareto.Yardstick(float(dense), entry.dense_cost(), entry.chance)
        expected.append(pareto.volume(np.array([p.quality for p in entry.points]), entry.costs(), yardstick))
    assert ours.volumes["useful"].mean == pytest.approx(np.mean(expected))
    assert ours.volumes["useful"].sd == pytest.approx(np.std(expected, ddof=1))
    assert ours.interval.low < ours.volumes["useful"].mean < ours.interval.high
    assert ours.measurements == 5
    assert ours.useful.figures["quality"].mean >= cell.dense["quality"].mean - 0.05
    cheapest = [min(p.cost.energy_j for p in e.points) for e in ours.entries]
    assert ours.cheapest.figures["energy_j"].mean == pytest.approx(np.mean(cheapest))


def test_pair_has_ratio_interval_and_tests(study):
    (cell,) = compare([study], draws=200)
    (pair,) = cell.pairs
    assert (pair.ours, pair.theirs, pair.volume.n) == ("MetaS-PEFT", "EChorda-style", 3)
    assert 1 < pair.ratio.low < pair.ratio.value < pair.ratio.high
    volumes = [[m.volumes["useful"].mean for m in cell.methods]]
    assert pair.ratio.value == pytest.approx(volumes[0][0] / volumes[0][1])
    assert pair.volume.mean == pytest.approx(volumes[0][0] - volumes[0][1])
    assert pair.volume.sign_flips == pytest.approx(0.25)  # the least that three seeds allow
    assert compare([study], draws=200)[0].pairs == cell.pairs


def test_members_chosen_in_evaluation_are_labelled_and_not_tested(study):
    cells = compare([study], draws=0)
    text = markdown(all_tables(cells))
    assert text.count("best quality, chosen in evaluation") == 2
    assert text.count("cheapest within 5 points, chosen in evaluation") == 2
    assert "Quality, difference, cheapest useful, chosen in evaluation" in text
    assert "t-test of it" not in text
    (cell,) = as_plain(cells)["cells"]
    ours, rival = cell["methods"]
    assert [ours[name]["chosen_on"] for name in ("best", "cheapest_useful", "least_energy")] == [
        "evaluation examples", "evaluation examples", "cost",
    ]  # fmt: skip
    (pair,) = cell["pairs"]
    gap = ours["cheapest_useful"]["quality"]["mean"] - rival["cheapest_useful"]["quality"]["mean"]
    assert pair["quality_difference"] == pytest.approx(gap)
    assert "quality_test" not in pair


def test_draws_take_the_same_examples_whatever_the_number_of_seeds(study):
    entries = read_entries(find_runs([study]))
    bootstrap = Bootstrap(entries, draws=5, seed=0)
    few, many = (bootstrap.drawn(entries[:n]) for n in (1, 3))
    assert [weight.tolist() for _, weight in few] == [weight.tolist() for _, weight in many]
    assert [len(which) for which, _ in many] == [3] * 5
    assert len({tuple(weight) for _, weight in many}) == 5


@pytest.mark.parametrize("metric", sorted(REDRAWN))
def test_documentation_names_every_metric_that_has_intervals(metric):
    page = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text(encoding="utf-8")
    spelled = {"rouge_l": "ROUGE-L"}.get(metric, metric.replace("_", " "))
    assert spelled in page.replace("Matthews", "matthews").replace("_", " ")


def test_interval_of_a_method_beside_itself_holds_one(make_run, tmp_path):
    for seed in range(3):
        make_run(f"a-{seed}", seed=seed)
        make_run(f"b-{seed}", method="static LoRA", seed=seed)
    (pair,) = compare([tmp_path / "runs"], draws=200)[0].pairs
    assert pair.ratio.low < 1 < pair.ratio.high


def test_bootstrap_agrees_with_that_of_a_single_run(make_run, tmp_path):
    folder = make_run("one", baselines=True)
    data = json.loads((folder / "results.json").read_text())
    (cell,) = compare([folder], draws=400)
    pair = next(p for p in cell.pairs if p.theirs == "Distilled layer dropping")
    with np.load(folder / "answers.npz") as stored:
        right = {name: (stored[name] == stored["labels"]).astype(float) for name in stored.files}
    dense_cost = np.array([data["dense"][m] for m in ("energy_j", "latency_ms", "peak_power_w")])

    def evaluated(name, front):
        cost = np.array([[p[m] for m in ("energy_j", "latency_ms", "peak_power_w")] for p in front])
        return pareto.Evaluated(right[name], cost, right["dense"][0], dense_cost)

    ours, theirs = evaluated("MetaS-PEFT", data["front"]), evaluated("drop-top", data["baselines"]["drop-top"]["front"])
    reference = pareto.bootstrap_ratio([ours], [theirs], chance_quality=data["chance_quality"], draws=400, seed=0)
    assert pair.ratio.value == pytest.approx(reference.ratio)
    assert pair.ratio.low == pytest.approx(reference.low, rel=0.05)
    assert pair.ratio.high == pytest.approx(reference.high, rel=0.05)


def test_baselines_of_a_run_are_methods_too_and_own_runs_go_before_them(make_run, tmp_path):
    make_run("host", baselines=True)
    make_run("own", method="EChorda-style", shift=0.01)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    by_name = {m.name: m for m in cell.methods}
    assert set(by_name) == {"MetaS-PEFT", "EChorda-style", "EChorda-style (as described)", "Distilled layer dropping",
                            "Static LoRA (as described)"}  # fmt: skip
    assert [e.run_id for e in by_name["EChorda-style"].entries] == ["own"]
    assert by_name["EChorda-style (as described)"].measurements == 200


def test_method_that_ran_by_itself_as_described_is_not_the_equal_treatment(make_run, tmp_path):
    config = {"method": "EChorda-as-described", "training": {"seed": 0, "num_epochs": 2}}
    make_run("host", baselines=True)
    make_run("old", method="EChorda-style", shift=0.01, config=config)  # results of before `setting` was stored
    make_run("new", method="EChorda-style", seed=1, config=config, setting="as described")
    (cell,) = compare([tmp_path / "runs"], draws=0)
    runs = {m.name: [e.run_id for e in m.entries] for m in cell.methods}
    assert runs["EChorda-style"] == ["host"]
    assert runs["EChorda-style (as described)"] == ["old", "new"]


def test_baselines_are_variants_by_the_settings_of_their_hosts(make_run, tmp_path):
    for seed, epochs in ((0, 2), (1, 9)):
        config = {"method": "MetaS-PEFT", "training": {"seed": seed, "num_epochs": epochs}}
        make_run(f"host-{seed}", seed=seed, baselines=True, config=config)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    seeds = {m.name: m.seeds for m in cell.methods}
    assert seeds["EChorda-style (training.num_epochs=2)"] == (0,)
    assert seeds["EChorda-style (training.num_epochs=9)"] == (1,)
    assert seeds["EChorda-style (as described, training.num_epochs=9)"] == (1,)


def test_members_at_other_operating_points_are_in_no_common_row(make_run, tmp_path):
    for seed, points in ((0, [0.5]), (1, [0.75, 0.5, 0.25])):
        config = {"training": {"seed": seed}, "evaluation": {"operating_points": points}}
        make_run(f"host-{seed}", seed=seed, baselines=True, config=config)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    assert len(cell.methods) == 2 * 4 + 1
    (whole,) = [m for m in cell.methods if "operating_points" not in m.name]
    assert (whole.name, whole.seeds) == ("Static LoRA (as described)", (0, 1))  # it has no members
    assert all(len(m.seeds) == 1 for m in cell.methods if m is not whole)


def test_runs_on_other_numbers_of_examples_are_in_cells_of_their_own(make_run, tmp_path):
    make_run("whole")
    make_run("quick", method="EChorda-style", n_validation=100)
    found = [cell.cell.title for cell in compare([tmp_path / "runs"], draws=0)]
    assert found == [f"all-MiniLM-L6-v2 on sst2 (synthetic data) ({n} examples), for pixel-8" for n in (100, E)]


def test_rival_without_a_common_seed_is_not_said_to_have_no_volume(make_run, tmp_path):
    make_run("ours", seed=0)
    make_run("rival", method="EChorda-style", seed=1)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    text = "\n".join(str(row) for table in cell_tables(cell) for row in table.rows)
    assert "no seed with both volumes" in text
    assert "theirs is 0" not in text


def test_dense_models_of_two_computers_are_noted(make_run, tmp_path):
    make_run("here")
    folder = make_run("there", method="EChorda-style")
    data = json.loads((folder / "results.json").read_text())
    data["dense"]["latency_ms"] *= 3
    (folder / "results.json").write_text(json.dumps(data))
    (cell,) = compare([tmp_path / "runs"], draws=0)
    assert any("as on different computers" in note for note in cell.notes)


def test_settings_without_bearing_on_a_baseline_make_no_variant_of_it(make_run, tmp_path):
    for seed, samples in ((0, 5), (1, 20)):
        config = {"training": {"seed": seed}, "surrogate": {"calibration_samples": samples}}
        make_run(f"host-{seed}", seed=seed, baselines=True, config=config)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    seeds = {m.name: m.seeds for m in cell.methods}
    assert seeds["EChorda-style"] == seeds["Distilled layer dropping"] == (0, 1)
    assert seeds["MetaS-PEFT (surrogate.calibration_samples=5)"] == (0,)


@pytest.mark.parametrize(
    ("second", "note"),
    [
        ("host", "EChorda-style, seed 0: the baseline in b is left out, the baseline in a is taken."),
        ("own", "EChorda-style, seed 0: the baseline in a is left out, b is taken."),
    ],
)
def test_entries_that_are_left_out_are_noted(make_run, tmp_path, second, note):
    make_run("a", baselines=True)
    changes = {"baselines": True} if second == "host" else {"method": "EChorda-style"}
    make_run("b", **changes)
    (cell,) = compare([tmp_path / "runs"], draws=0)
    assert note in cell.notes


def test_runs_on_other_devices_or_tasks_are_other_cells(make_run, tmp_path):
    local = realistic_results()["retargets"]
    make_run("a", retargets=local)
    make_run("b", task="cola", task_origin="real", quality_metric="matthews_correlation")
    cells = compare([tmp_path / "runs"], draws=0)
    assert [(c.cell.task, c.cell.device) for c in cells] == [
        ("cola", "pixel-8"), ("sst2 (synthetic data)", "local"), ("sst2 (synthetic data)", "pixel-8"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "is_doubted"),
    [
        ({"latency_ms": 80.0}, {"latency_ms": 80.0}, False),
        ({"latency_ms": 80.0}, {"latency_ms": 81.0}, False),  # a fraction of two measurements of the dense model
        ({"latency_ms": 80.0}, {"latency_ms": 96.0}, True),
        ({"latency_ms": 80.0}, {"energy_j": 6.0}, True),
        ({"latency_ms": 80.0, "energy_j": 6.0}, {"energy_j": 6.0}, True),
    ],
)
def test_budgets_that_differ_by_more_than_noise_are_doubted(make_run, tmp_path, first, second, is_doubted):
    for name, seed, limits in (("a", 0, first), ("b", 1, second)):
        make_run(name, seed=seed, budgets={"limits": limits})
    (cell,) = compare([tmp_path / "runs"], draws=0)
    assert any("different budgets" in note for note in cell.notes) == is_doubted


def test_settings_that_differ_between_cells_name_no_variant(make_run, tmp_path):
    make_run("a", config={"training": {"seed": 0, "num_epochs": 2}})
    make_run("b", target_device="other-phone", config={"training": {"seed": 0, "num_epochs": 3}})
    cells = compare([tmp_path / "runs"], draws=0)
    assert [[m.name for m in cell.methods] for cell in cells] == [["MetaS-PEFT"], ["MetaS-PEFT"]]


def test_key_that_an_older_run_did_not_know_makes_no_variant(make_run, tmp_path):
    make_run("old", seed=0, config={"training": {"seed": 0}, "dataset": {"max_length": 8}})
    make_run("new", seed=1, config={"training": {"seed": 1}, "dataset": {"max_length": 8, "config": None}})
    (cell,) = compare([tmp_path / "runs"], draws=50)
    assert len(cell.methods) == 1


def test_runs_of_other_settings_are_variants_named_by_them(make_run, tmp_path):
    make_run("a", seed=0, config={"training": {"seed": 0, "num_epochs": 2}})
    make_run("b", seed=1, config={"training": {"seed": 1, "num_epochs": 2}})
    make_run("c", seed=0, config={"training": {"seed": 0, "num_epochs": 3}})
    (cell,) = compare([tmp_path / "runs"], draws=0)
    assert [(m.name, m.seeds) for m in cell.methods] == [
        ("MetaS-PEFT (training.num_epochs=2)", (0, 1)), ("MetaS-PEFT (training.num_epochs=3)", (0,)),
    ]  # fmt: skip


def test_runs_without_answers_have_volumes_but_no_interval(make_run, tmp_path):
    make_run("a", answers=False)
    (cell,) = compare([tmp_path / "runs"], draws=20)
    assert cell.methods[0].volumes["useful"].mean > 0
    assert cell.methods[0].interval.low is None
    assert any("have no interval" in note for note in cell.notes)


def test_few_seeds_are_said_to_be_few(study):
    (cell,) = compare([study], draws=0)
    assert any("3 seeds" in note for note in cell.notes)


def test_quality_of_weighted_examples_is_that_of_repeated_ones():
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 3, 60), rng.integers(0, 3, (4, 60))
    answers[0] = labels
    weight = rng.multinomial(60, np.full(60, 1 / 60)).astype(float)
    repeated = np.repeat(np.arange(60), weight.astype(int))
    for metric, score in (("accuracy", lambda c: np.trace(c) / c.sum()), ("matthews_correlation", matthews)):
        found = quality_of(answers, labels, weight, metric)
        expected = [max(0.0, score(confusion(row[repeated], labels[repeated], 3))) for row in answers]
        assert found == pytest.approx(expected)


def test_paired_tests_of_known_differences():
    assert paired([1.0]).t_test is None
    assert paired([1.0, 1.0, 1.0]).t_test is None  # no spread, no distribution
    assert paired([1.0, 1.0, 1.0]).sign_flips == pytest.approx(0.25)
    found = paired([0.2, -0.1, 0.3, 0.1, 0.25])
    assert found.mean == pytest.approx(0.15)
    assert found.t_test == pytest.approx(stats.ttest_1samp([0.2, -0.1, 0.3, 0.1, 0.25], 0.0).pvalue)
    assert found.sign_flips == pytest.approx(6 / 32)


def test_files_hold_the_same_numbers(study, tmp_path):
    cells = compare([study], draws=20)
    paths = write_comparison(cells, tmp_path / "out")
    assert [p.name for p in paths] == [f"comparison.{s}" for s in ("html", "md", "tex", "csv", "json")]
    data = json.loads(paths[-1].read_text())
    rows = list(csv.DictReader(io.StringIO(paths[3].read_text())))
    assert len(rows) == 2
    useful = [m["hypervolume"]["useful"]["mean"] for m in data["cells"][0]["methods"]]
    assert [float(r["hypervolume_useful_mean"]) for r in rows] == pytest.approx(useful)
    assert rows[0]["origin_energy_j"] == "simulated"
    for text in (paths[1].read_text(), paths[2].read_text(), paths[0].read_text()):
        assert all(f"{value:.4f}" in text for value in useful)
        assert "simulated" in text


def test_tables_keep_units_and_origins(study):
    tables = all_tables(compare([study], draws=10))
    assert len(tables) == 3
    text = markdown(tables)
    assert "Energy, mJ, simulated" in text
    assert text.count("| ---") >= 3
    tex = latex(tables)
    assert tex.count(r"\begin{table}") == tex.count(r"\end{tabular}") == 3
    assert not re.search(r"(?<!\\)[_%&#]", re.sub(r" & ", " ", tex).replace("% ", "\\% "))
    for row in re.findall(r"^(.*) \\\\$", tex, flags=re.M):
        assert row.count(" & ") >= 5


def test_page_is_one_file_that_loads_nothing(study):
    page = render(compare([study], draws=10))
    assert not re.search(r"<(?:script|img|link)[^>]+(?:src|href)=", page)
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', page, flags=re.S).group(1))
    assert set(data["figures"]["cell-0"]) == {"energy_j", "latency_ms", "peak_power_w"}
    names = {trace["name"] for trace in data["figures"]["cell-0"]["latency_ms"]["data"]}
    assert names == {"MetaS-PEFT", "EChorda-style", "Dense model, the reference"}
    assert page.count("<table") == 3


def test_hostile_names_stay_text(make_run, tmp_path):
    make_run("x", backbone="<script>alert(1)</script>", device="a")
    page = render(compare([tmp_path / "runs"], draws=0))
    assert "<script>alert" not in page


def test_trials_of_searches_are_left_out_unless_named(make_run, tmp_path):
    folder = make_run("a")
    trial = tmp_path / "runs" / "b.sweep" / "trials" / "trial-0000"
    trial.parent.mkdir(parents=True)
    folder.rename(trial)
    own = make_run("c")
    assert find_runs([tmp_path / "runs"]) == [own]
    assert find_runs([trial]) == [trial]


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no finished run"):
        compare([tmp_path])


def test_json_says_which_runs_were_compared(study):
    plain = as_plain(compare([study], draws=5))
    assert [m["runs"] for m in plain["cells"][0]["methods"]] == [
        ["ours-0", "ours-1", "ours-2"], ["rival-0", "rival-1", "rival-2"],
    ]  # fmt: skip
    assert len(read_entries(find_runs([study]))) == 6
    json.dumps(plain, allow_nan=False)
