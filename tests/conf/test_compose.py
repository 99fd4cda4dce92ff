"""Defaults, run file and overrides through Hydra: one frozen configuration, or one per job."""

import dataclasses
import logging

import pytest

from metas_peft.conf.compose import Flags, jobs, launch, load
from metas_peft.conf.runfile import packaged, read_run
from metas_peft.core.errors import OutputError, RunFileError, UnknownKeyError, UnknownNameError, UsageError


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("training:\n  epochs: 3\n  seed: 5\nbudgets: {power_w: 11}\n")
    return path


def keep(config, folder):
    return config, folder


def test_overrides_beat_the_file_and_the_file_beats_defaults(run_file):
    config = load(run_file, ["training.seed=7"])
    assert (config.training.seed, config.training.num_epochs, config.training.gate_steps) == (7, 3, 200)
    assert config.budgets.peak_power_w == 11.0


def test_given_names_what_file_and_overrides_set(run_file):
    config = load(run_file, ["training.seed=7", "device=local"])
    assert config.given == {"training.seed", "training.num_epochs", "budgets.peak_power_w", "device"}


def test_run_is_named_after_its_file(run_file):
    assert load(run_file).run_id == "mine"
    assert load(run_file, ["run_id=other"]).run_id == "other"


def test_configuration_is_frozen(run_file):
    config = load(run_file)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.seed = 1


@pytest.mark.parametrize(
    ("overrides", "front"),
    [
        ([], "nested"),
        (["model.gating.granularity=[head]"], "gates"),
        (["model.gating.hard_concrete_temperature=2"], "gates"),
        (["model.gating.gate_sparsity_regulariser=1e-4"], "gates"),
        (["model.gating.gate_learning_rate=0.1"], "nested"),
        (["model.gating.granularity=[head]", "front=nested"], "nested"),
    ],
)
def test_front_is_gates_where_gates_are_configured(run_file, overrides, front):
    assert load(run_file, overrides).front == front


def test_names_of_methods_are_canonical(run_file):
    config = load(run_file, ["method=comparative-1", "evaluation.baselines=[comparative-3,static_lora,drop-top]"])
    assert config.method == "EChorda"
    assert config.evaluation.baselines == ("static-lora", "drop-top")


def test_full_fine_tuning_has_no_default_baseline_that_trains_adapters(run_file):
    assert load(run_file, ["method=baseline"]).evaluation.baselines == ()


def test_ablation_takes_its_part_out(run_file):
    config = load(run_file, ["method=ablation-no-distillation"])
    assert (config.training.distillation.kl, config.training.distillation.cross_entropy) == (0.0, 1.0)


def test_reference_to_another_key_is_followed(run_file):
    assert load(run_file, ["run_id=seed-${training.seed}"]).run_id == "seed-5"


def test_deleted_key_takes_its_default(run_file):
    assert load(run_file, ["~training.epochs"]).training.num_epochs == 2


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["run_id=${nope}"], UsageError, "nope"),
        (["device=pixel8x"], UnknownNameError, "did you mean 'pixel-8'"),
        (["retarget=[pixle-8]"], UnknownNameError, "did you mean 'pixel-8'"),
        (["surrogate.meta_training_devices=[nokia]"], UnknownNameError, "Unknown device 'nokia'"),
        (["method=propose"], UnknownNameError, "did you mean 'MetaS-PEFT'"),
        (["evaluation.baselines=[echord]"], UnknownNameError, "did you mean 'EChorda'"),
        (["evaluation.baselines=[full]"], UsageError, "baseline of MetaS-PEFT, since it trains all"),
        (["method=baseline", "evaluation.baselines=[lora]"], UsageError, "static-lora cannot be a baseline"),
        (["method=EChorda", "evaluation.baselines=[proposed]"], UsageError, "needs a surrogate of its own"),
        (["training.seed=1,2"], UsageError, "Add --multirun"),
        (["optuna.search_space.r.low=3"], RunFileError, "override 'optuna.search_space.r.low=3': "),
        (["~optuna.search_space.r"], UsageError, "optuna.search_space"),
    ],
)
def test_mistake_ends_in_one_sentence(run_file, overrides, error, message):
    with pytest.raises(error) as caught:
        load(run_file, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistake_in_the_file_names_file_and_line(run_file):
    run_file.write_text("training:\n  epochs: 3\n  sed: 5\n")
    with pytest.raises(UnknownKeyError, match=r"mine\.yaml, line 3: .*did you mean 'training.seed'"):
        load(run_file)


def test_every_packaged_run_is_valid_and_named_after_itself():
    names = packaged()
    assert names == ["demo", "demo_fast"]
    for name in names:
        config = load(name)
        assert config.run_id == name
        assert (config.target, config.retarget) == ("pixel-8", ("local",))
        assert len(config.evaluation.operating_points) >= 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demos", "did you mean 'demo'"),
        ("absent.yaml", "No run file at absent.yaml"),
        (".", "is a folder"),
    ],
)
def test_absent_run_names_what_there_is(name, message):
    with pytest.raises(UnknownNameError, match=message):
        read_run(name)


def test_launch_hands_over_configuration_and_existing_folder(run_file, tmp_path):
    ((config, folder),) = launch(str(run_file), [f"output_dir={tmp_path}/out"], Flags(), keep)
    assert folder == tmp_path / "out" / "mine"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert config == load(run_file, [f"output_dir={tmp_path}/out"])
    assert config.given == load(run_file, [f"output_dir={tmp_path}/out"]).given


def test_multirun_gives_each_job_its_own_folder(run_file, tmp_path):
    overrides = [f"output_dir={tmp_path}/out", "training.seed=1,2", "budgets.relative=0.5,0.7"]
    done = launch(str(run_file), overrides, Flags(multirun=True), keep)
    assert [(c.training.seed, c.budgets.relative) for c, _ in done] == [(1, 0.5), (1, 0.7), (2, 0.5), (2, 0.7)]
    folders = [folder for _, folder in done]
    assert len(set(folders)) == 4
    assert folders[0] == tmp_path / "out" / "mine.multirun" / "mine-budgets.relative=0.5+training.seed=1"
    assert all((c.output_dir, c.run_id) == (str(f.parent), f.name) for c, f in done)


def test_multirun_again_with_other_values_uses_other_folders(run_file, tmp_path):
    def folder(seed):
        overrides = [f"output_dir={tmp_path}", f"training.seed={seed},9"]
        return launch(str(run_file), overrides, Flags(multirun=True), keep)[0][1]

    assert folder(1) != folder(2)
    assert folder(1) == folder(1)


@pytest.mark.parametrize("values", ["org/a,org_a", "'レビュー','文本'"])
def test_names_that_come_to_the_same_letters_have_folders_of_their_own(run_file, tmp_path, values):
    overrides = [f"output_dir={tmp_path}", f"dataset.text_column={values}"]
    here = [folder.name for _, folder in launch(str(run_file), overrides, Flags(multirun=True), keep)]
    elsewhere = [text for job in jobs(str(run_file), overrides) for text in job if text.startswith("run_id=")]
    assert len(set(here)) == 2
    assert [text.partition("=")[2].strip("'\"") for text in elsewhere] == here


def test_home_folder_may_be_written_as_in_a_shell(run_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    overrides = ["output_dir='~/runs'", "dataset.path='~/data'"]
    ((config, folder),) = launch(str(run_file), overrides, Flags(), keep)
    assert (config.output_dir, config.dataset.path) == (str(tmp_path / "runs"), str(tmp_path / "data"))
    assert folder == tmp_path / "runs" / config.run_id
    assert not (tmp_path / "~").exists()
    assert load(str(run_file), ["dataset.path='~nobody/data'"]).dataset.path == "~nobody/data"


def test_failing_job_of_a_multirun_lets_the_others_run(run_file, tmp_path, caplog):
    ran = []

    def job(config, folder):
        if config.training.seed == 1:
            raise OutputError("no space left.")
        ran.append(config.training.seed)

    with caplog.at_level(logging.ERROR), pytest.raises(OutputError, match="no space left"):
        launch(str(run_file), [f"output_dir={tmp_path}", "training.seed=1,2,3"], Flags(multirun=True), job)
    assert ran == [2, 3]
    assert "no space left" in caplog.text


def test_launcher_may_be_named(run_file, tmp_path):
    overrides = [f"output_dir={tmp_path}", "training.seed=1,2", "hydra/launcher=basic"]
    assert len(launch(str(run_file), overrides, Flags(multirun=True), keep)) == 2


def test_unknown_launcher_is_refused_in_one_sentence(run_file, tmp_path):
    with pytest.raises(UsageError, match="hydra/launcher/nix"):
        launch(str(run_file), [f"output_dir={tmp_path}", "hydra/launcher=nix"], Flags(), keep)


def test_mistake_leaves_no_folder_behind(run_file, tmp_path):
    with pytest.raises(RunFileError):
        launch(str(run_file), [f"output_dir={tmp_path}/out", "evaluation.operating_points=[]"], Flags(), keep)
    assert not (tmp_path / "out").exists()


def test_output_folder_below_a_file_is_refused_in_one_sentence(run_file):
    with pytest.raises(OutputError, match=r"Cannot make the output folder .*: not a directory.*output_dir="):
        launch(str(run_file), [f"output_dir={run_file}/out"], Flags(), keep)


def test_shown_configuration_is_a_run_file(run_file, tmp_path, capsys):
    assert launch(str(run_file), ["training.seed=9"], Flags(cfg="job"), keep) == []
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load(shown) == load(run_file, ["training.seed=9"])
