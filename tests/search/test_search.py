"""Spaces, trials, values and what is kept of them."""

import hashlib
import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from metas_peft.conf import dump, to_dict
from metas_peft.conf.compose import load
from metas_peft.core.errors import MetasPeftError, TrainingDivergedError, UnknownKeyError, UsageError
from metas_peft.core.files import write_json
from metas_peft.search import Worker, open_search, summarise, write_best
from metas_peft.search.space import distributions, objectives
from metas_peft.search.storage import hidden, with_driver
from metas_peft.search.study import _settings
from metas_peft.search.summary import SUMMARY

from .conftest import SPACE, figures


def test_block_becomes_distributions_by_place(configure):
    assert distributions(configure()) == {
        "training.learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
        "model.peft.r": IntDistribution(2, 16),
        "dataset.batch_size": CategoricalDistribution((8, 16, 32)),
    }


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ({"type": "uniform", "low": 0.5, "high": 5}, FloatDistribution(0.5, 5.0)),
        ({"type": "suggest_float", "low": 1, "high": 5, "log": True}, FloatDistribution(1.0, 5.0, log=True)),
        ({"type": "float", "low": 0, "high": 1, "step": 0.25}, FloatDistribution(0.0, 1.0, step=0.25)),
    ],
)
def test_ranges_mean_what_optuna_means(configure, span, expected):
    space = {"lambda_energy": span}
    assert distributions(configure(space=space)) == {"objective_weights.lambda_energy": expected}


def test_name_of_several_keys_lists_them(configure):
    with pytest.raises(UnknownKeyError, match=r"ambiguous; write one of model\.name, dataset\.name"):
        configure(space={"name": {"type": "categorical", "choices": ["a", "b"]}})


def test_one_key_by_two_names_is_refused(configure):
    space = {"r": SPACE["r"], "model.peft.r": SPACE["r"]}
    with pytest.raises(UsageError, match="names model.peft.r twice"):
        distributions(configure(space=space))


def test_key_that_would_change_nothing_is_refused(configure):
    space = {"hard_concrete_temperature": {"type": "uniform", "low": 0.5, "high": 5}}
    with pytest.raises(UsageError, match="would change nothing: with front=nested"):
        open_search(configure(space=space))
    assert len(distributions(configure("front=gates", space=space))) == 1


def test_seeds_are_repeated_and_not_searched(search):
    with pytest.raises(UsageError, match=r"training\.seed, but seeds are repeated.* set optuna\.repeats"):
        search(space={"seed": {"type": "int", "low": 0, "high": 9}})


RECORDS = {"surrogate.records": {"type": "int", "low": 100, "high": 2000}}


def test_trials_share_the_surrogate_unless_its_keys_are_searched(search):
    assert search().trial_config(0, {}, 0).surrogate.checkpoint_path.endswith("study.sweep/surrogate.safetensors")
    study = search("surrogate.kind=reference", run_id="other", space=RECORDS)
    trial = study.trial_config(0, {"surrogate.records": 100}, 0)
    assert (trial.surrogate.records, trial.surrogate.checkpoint_path) == (100, None)


def test_records_of_a_surrogate_that_is_read_are_not_searched(search):
    with pytest.raises(UsageError, match=r"surrogate\.records would change nothing: all trials read the surrogate"):
        search("surrogate.kind=reference", "surrogate.checkpoint_path=there.safetensors", space=RECORDS)


def test_size_of_the_pool_which_is_only_checked_is_not_searched(search):
    with pytest.raises(UsageError, match=r"n_hardware_tags would change nothing: it is the size of the pool"):
        search("surrogate.kind=reference", space={"n_hardware_tags": {"type": "int", "low": 2, "high": 9}})


@pytest.mark.parametrize("name", ["method", "device", "threads"])
def test_what_is_looked_up_by_name_is_not_searched(configure, name):
    """Trials set values alone: a method brings settings of its own, a device must exist."""
    with pytest.raises(UnknownKeyError, match=f"{name} is not for a search to change"):
        configure(space={name: {"type": "categorical", "choices": ["EChorda", "DiGASE"]}})


@pytest.mark.parametrize(
    ("metric", "direction"), [("energy_j", "minimize"), ("hypervolume", "maximize"), ("surrogate_error", "minimize")]
)
def test_direction_follows_from_the_figure_and_a_wrong_one_is_refused(configure, metric, direction):
    plain = configure(f"evaluation.primary_metric={metric}", "optuna.direction=null")
    assert objectives(plain) == ((metric,), (direction,))
    wrong = {"minimize": "maximize", "maximize": "minimize"}[direction]
    with pytest.raises(UsageError, match=f"optuna.direction={wrong} would search for the worst {metric}"):
        objectives(configure(f"evaluation.primary_metric={metric}", f"optuna.direction={wrong}"))


def test_direction_of_an_objective_is_held_to_the_same_rule(configure):
    assert objectives(configure(objectives=["energy_j"], direction="minimize")) == (("energy_j",), ("minimize",))
    with pytest.raises(UsageError, match=r"worst energy_j\. Leave it out, or name another optuna\.objectives"):
        objectives(configure(objectives=["energy_j"], direction="maximize"))


def test_one_direction_for_several_objectives_is_refused(configure):
    with pytest.raises(UsageError, match="is for one figure, but optuna.objectives names quality, energy_j"):
        objectives(configure(objectives=["quality", "energy_j"], direction="maximize"))


def test_uniform_range_in_the_logarithm_is_refused(configure):
    with pytest.raises(UsageError, match=r"is uniform and `log: true`.* say `type: float`"):
        configure(space={"lambda_energy": {"type": "uniform", "low": 0.1, "high": 5, "log": True}})


def test_volumes_without_a_common_reference_are_warned_about(configure, caplog):
    said = "measured from its own dense model"
    open_search(configure())
    assert said in caplog.text
    caplog.clear()
    open_search(configure("optuna.reference_quality=0.9", run_id="with"))
    open_search(configure("evaluation.primary_metric=quality", run_id="other"))
    assert said not in caplog.text


def test_search_without_a_space_is_refused(configure):
    with pytest.raises(UsageError, match="search_space is empty"):
        open_search(configure(space={}))


def test_source_files_search_what_they_say():
    from pathlib import Path

    runs = Path(__file__).parent.parent / "data" / "runs"
    proposed = load(runs / "proposed-iter1-Llama-2-7B-SST-2.yaml")
    assert len(distributions(proposed)) == 8
    assert objectives(proposed) == (("hypervolume",), ("maximize",))
    echorda = load(runs / "comparative-1-iter1-Llama-2-7B-SST-2.yaml")
    assert len(distributions(echorda)) == 5
    assert objectives(echorda) == (("energy_j",), ("minimize",))
    assert len(distributions(load(runs / "baseline_bert_imdb.yaml"))) == 2


def test_trial_is_judged_on_the_held_out_examples_without_rivals(search):
    trial = search("training.seed=5").trial_config(3, {"model.peft.r": 4, "training.learning_rate": 0.01}, 0)
    assert (trial.model.peft.r, trial.training.learning_rate, trial.training.seed) == (4, 0.01, 5)
    assert (trial.evaluation.split, trial.evaluation.baselines, trial.run_id) == ("holdout", (), "trial-0003")
    assert trial.output_dir.endswith("study.sweep/trials")
    assert trial.given == {"run_id", "output_dir", "training.seed", "model.peft.r", "training.learning_rate"}
    asked = search("evaluation.baselines=[drop-top]", run_id="other").trial_config(0, {}, 0)
    assert asked.evaluation.baselines == ("drop-top",)


def test_search_finds_the_best_and_what_matters(search):
    study = search(n_trials=25)
    assert Worker(study, figures).run() == 25
    summary = summarise(study)
    assert summary["states"]["complete"] == 25
    assert [t["number"] for t in summary["trials"]] == list(range(25))
    (best,) = summary["best"]
    assert best["values"]["hypervolume"] == max(t["values"]["hypervolume"] for t in summary["trials"]) > 0.9
    shares = summary["importance"]["hypervolume"]
    assert next(iter(shares)) == "training.learning_rate"
    config = load(write_best(study))
    assert config.training.learning_rate == best["params"]["training.learning_rate"]
    assert (config.run_id, config.evaluation.split) == ("study-best", "validation")
    assert config.given == {"run_id", "output_dir", *best["params"]}


def test_study_that_stopped_goes_on_as_if_it_had_not(search):
    class Stopped(Exception):
        pass

    calls = []

    def stopping(config, folder):
        calls.append(config)
        if len(calls) == 4:
            raise Stopped
        return figures(config)

    study = search(n_trials=8)
    with pytest.raises(Stopped):
        Worker(study, stopping).run()
    assert [t.state for t in study.trials()][3] is TrialState.WAITING
    resumed = search(n_trials=8)
    assert Worker(resumed, figures).run() == 5
    whole = search(run_id="whole", n_trials=8)
    Worker(whole, figures).run()
    assert [t.params for t in resumed.trials()] == [t.params for t in whole.trials()]


def test_study_can_be_prolonged_but_not_changed(search):
    Worker(search(n_trials=2), figures).run()
    longer = search(n_trials=5, keep="all", heartbeat_s=1)
    assert Worker(longer, figures).run() == 3
    with pytest.raises(UsageError, match=r"other settings \(optuna, training changed\)"):
        search("training.num_epochs=7", sampler="random")


def test_study_begun_before_a_key_existed_goes_on(configure):
    config = configure()
    data = {name: value for name, value in to_dict(config)["dataset"].items() if name != "config"}
    before = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
    assert _settings(config, {}, (), ())["dataset"] == before
    assert _settings(configure("dataset.config=short"), {}, (), ())["dataset"] != before


def test_several_objectives_give_a_front(search):
    study = search(n_trials=12, objectives=["quality", "energy_j"], sampler="nsga-ii")
    Worker(study, figures).run()
    summary = summarise(study)
    assert summary["objectives"] == {"quality": "maximize", "energy_j": "minimize"}
    points = [(t["values"]["quality"], -t["values"]["energy_j"]) for t in summary["trials"]]
    best = {
        i for i, p in enumerate(points) if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)
    }  # fmt: skip
    assert {t["number"] for t in summary["best"]} == best
    text = write_best(study).read_text()
    first = max(best, key=lambda i: points[i][0])
    assert text.startswith(f"# Trial {first} of the study study.\n# Of the {len(best)} trials that no other one beats")
    assert "the best in quality" in text.splitlines()[1]
    assert load(study.folder / "best.yaml").model.peft.r == study.trials()[first].params["model.peft.r"]
    assert set(summary["importance"]) == {"quality", "energy_j"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga-ii"])
def test_samplers_draw_by_number_and_seed(search, sampler):
    drawn = []
    for run_id in ("one", "two"):
        study = search(run_id=run_id, n_trials=4, sampler=sampler)
        Worker(study, figures).run()
        drawn.append([t.params for t in study.trials()])
    assert drawn[0] == drawn[1]
    assert len({str(p) for p in drawn[0]}) > 1


def test_trial_is_the_mean_of_its_repeats(search):
    seeds = []

    def by_seed(config, folder):
        seeds.append(config.training.seed)
        return {"hypervolume": float(config.training.seed)}

    study = search(n_trials=2, repeats=3)
    Worker(study, by_seed).run()
    assert seeds == [0, 1, 2, 0, 1, 2]
    assert [t.value for t in study.trials()] == [1.0, 1.0]


def test_pruner_ends_a_trial_between_repeats(search):
    study = search(n_trials=12, repeats=3, pruner="median", sampler="random")
    Worker(study, figures).run()
    states = summarise(study)["states"]
    assert states["pruned"] > 0
    assert states["pruned"] + states["complete"] == 12


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pruner": "median"}, "repeats is 1"),
        ({"pruner": "median", "repeats": 2, "objectives": ["quality", "energy_j"]}, "one figure only"),
        ({"objectives": ["quality", "quality"]}, "name each figure once"),
        ({"storage": "sqlite:///x.db"}, "not for workers to share"),
        ({"storage": "nonsense"}, "no URL"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(search, settings, words):
    with pytest.raises(UsageError, match=words):
        search(**settings)


def test_failed_trial_is_noted_and_the_search_goes_on(search):
    def sometimes(config, folder):
        if "0001" in folder.name:
            raise TrainingDivergedError("the loss is nan")
        return figures(config)

    study = search(n_trials=4)
    Worker(study, sometimes).run()
    rows = summarise(study)["trials"]
    assert [r["state"] for r in rows] == ["complete", "fail", "complete", "complete"]
    assert rows[1]["error"] == "the loss is nan"


def test_search_in_which_everything_fails_gives_up(search):
    with pytest.raises(MetasPeftError, match="first 3 trials all failed; .* gives no flops"):
        Worker(search(objectives=["flops"]), figures).run()


@pytest.mark.parametrize(("keep", "models"), [("all", 5), ("best", 1), ("results", 0)])
def test_artefacts_are_kept_or_pruned(search, keep, models):
    def writing(config, folder):
        (folder / "models" / "a").mkdir(parents=True)
        (folder / "results.json").write_text("{}")
        return figures(config)

    study = search(n_trials=5, keep=keep)
    Worker(study, writing).run()
    folders = sorted((study.folder / "trials").iterdir())
    assert len(folders) == 5
    assert sum((f / "models").exists() for f in folders) == models
    assert all((f / "results.json").exists() for f in folders)
    if keep == "best":
        assert (study.trial_folder(study.best()[0].number) / "models").exists()


def test_password_of_a_database_is_in_no_file_of_the_study(search, monkeypatch):
    from metas_peft.search import storage

    monkeypatch.setattr("metas_peft.search.study.open_storage", lambda url, folder: storage.open_storage(None, folder))
    study = search(n_trials=2, keep="all", storage="postgresql://me:secret@host/db")

    def writing(config, folder):
        (folder / "config.yaml").write_text(dump(config))
        (folder / "settings.json").write_text(json.dumps(to_dict(config)))
        return figures(config)

    Worker(study, writing).run()
    write_json(study.folder / SUMMARY, summarise(study))
    assert write_best(study)
    files = [path for path in study.folder.rglob("*") if path.is_file()]
    assert len(files) >= 7  # two trials with two files each, journal, summary, best
    assert [path for path in files if b"secret" in path.read_bytes()] == []


def test_passwords_are_not_shown():
    assert hidden("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert with_driver("postgresql://me:secret@host/db") == "postgresql+psycopg://me:secret@host/db"
    assert with_driver("mysql://host/db") == "mysql+pymysql://host/db"
