"""`metas profile` as users meet it."""

import csv
import json
import types

import pytest

from metas_peft import cli
from metas_peft.core.store import RecordStore
from metas_peft.devices.meters import traces
from metas_peft.devices.meters.replay import save_trace


def status_of(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_simulated_profile_goes_into_a_store_and_is_not_repeated(here, capsys):
    command = ("profile", "run", "pixel-8", "--store", "store", "--count", "12")
    assert status_of(*command) == 0
    shown = capsys.readouterr().out
    assert "12 measured now, 0 were in store already, 0 failed." in shown
    assert "simulated" in shown
    assert status_of(*command, "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["measured"], result["found"], result["device"]) == (0, 12, "pixel-8")
    assert status_of("profile", "run", "Pixel-8-TPU", "--store", "store", "--count", "15") == 0
    assert "3 measured now, 12 were in store already" in capsys.readouterr().out
    assert len(RecordStore(here / "store").read()) == 15


def test_decoder_is_profiled_while_it_decodes_with_separate_adapters(here):
    assert (
        status_of(
            "profile", "run", "macbook-m2", "--store", "store", "--backbone", "Llama-2-7B", "--phase", "decode",
            "--context-len", "64", "--bits", "4", "--adapter", "separate", "--count", "3",
        )
        == 0
    )  # fmt: skip
    records = RecordStore(here / "store").read().profile_records()
    assert {(r.workload.phase, r.workload.seq_len, r.workload.context_len) for r in records} == {("decode", 1, 64)}
    assert {r.workload.adapter for r in records} == {"separate"}
    assert max(r.kept_ranks for r in records) == 32 * 16


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("pixel-9",), 1, "did you mean 'pixel-8'"),
        (("pixel-8", "--bits", "7"), 2, "32, 16, 8 or 4"),
        (("pixel-8", "--context-len", "5"), 2, "--phase decode"),
        (("pixel-8", "--phase", "decode"), 2, "--context-len"),
        (("pixel-8", "--phase", "decode", "--context-len", "9"), 2, "is an encoder and has no decoding"),
        (("pixel-8", "--seconds", "2", "--weights", "random"), 2, "--seconds and --weights belong"),
        (("pixel-8", "--threads", "2"), 2, "belong to the device `local`"),
        (("pixel-8", "--backbone", "minilmm"), 1, "minilm"),
        (("pixel-8", "--runtime", "tensorrt"), 1, "has no simulated runtime"),
        (("local", "--runtime", "tensorrt"), 1, "has no runtime"),
        (("local", "--power", "metre"), 2, "did you mean 'meter'"),
        (("local", "--power", "android-rails"), 2, "reads another device"),
    ],
)
def test_mistakes_are_named(here, capsys, arguments, status, message):
    assert status_of("profile", "run", *arguments, "--store", "store", "--count", "2") == status
    assert message in capsys.readouterr().err
    assert not (here / "store").exists()


def test_local_energy_is_not_modelled_without_being_asked(here, capsys, monkeypatch):
    from metas_peft.devices.meters import registry

    monkeypatch.setattr(registry, "METERS", ())
    assert status_of("profile", "run", "local", "--store", "store", "--count", "2") == 1
    assert "--power modelled" in capsys.readouterr().err


@pytest.fixture
def tiny_backbone(monkeypatch):
    """The tiny BERT in the place of whatever is asked for."""
    from metas_peft.cli import local_models
    from metas_peft.testing.tiny import tiny_model

    models = {"minilm": "bert", "llama": "llama", "gemma3": "gemma3"}

    def load(name, **options):
        return types.SimpleNamespace(model=tiny_model(models[name]), name=name)

    monkeypatch.setattr(local_models, "load_backbone", load)
    return local_models


LOCAL = ("profile", "run", "local", "--store", "store", "--count", "3", "--seq-len", "8", "--power", "modelled")
QUICK = ("--seconds", "0.2", "--threads", "1")


def test_local_profile_times_real_models_and_goes_on(here, capsys, tiny_backbone):
    assert status_of(*LOCAL, *QUICK) == 0
    assert status_of(*LOCAL[:6], "4", *LOCAL[7:], *QUICK) == 0
    assert "1 measured now, 3 were in store already" in capsys.readouterr().out
    rows = RecordStore(here / "store").read().rows()
    assert len(rows) == 4
    assert {(r["origin_latency"], r["origin_energy"]) for r in rows} == {("measured", "modelled")}
    scales = [r["scale_ms"] for r in rows]
    assert scales == pytest.approx([scales[0]] * 4), "the second call gives its times on the scale of the first"
    assert all(r["trials"] and r["threads"] == 1 and r["known_to_pct"] is not None for r in rows)


@pytest.mark.parametrize(("bits", "status"), [("16", 0), ("8", 0), ("4", 2)])
def test_local_number_formats(here, capsys, tiny_backbone, bits, status):
    assert status_of(*LOCAL, *QUICK, "--bits", bits) == status
    if status:
        assert "runs weights of 32, 16, 8 bits here, not 4" in capsys.readouterr().err
    else:
        assert {r["param_bits"] for r in RecordStore(here / "store").read().rows()} == {int(bits)}


def test_local_decoder_decodes_behind_a_cache(here, tiny_backbone):
    options = ("--backbone", "llama", "--phase", "decode", "--context-len", "6")
    assert status_of(*LOCAL, *QUICK, *options) == 0
    assert {(r["context_len"], r["is_valid"]) for r in RecordStore(here / "store").read().rows()} == {(6, True)}


@pytest.mark.parametrize(("name", "tokens"), [("llama", 6), ("gemma3", 3), ("gemma3", 40)])
def test_cache_is_as_it_was_after_every_pass(tiny_backbone, name, tokens):
    """Also where a window slides, which loses its oldest token at every step."""
    from metas_peft.core.subnet import Subnet
    from metas_peft.core.workload import Workload

    models = tiny_backbone.LocalModels(name, runtime="pytorch_cpu", threads=1)
    one_pass = models.specimen(Subnet.dense(models.shape)).open(
        Workload("decode", batch_size=2, seq_len=1, context_len=tokens)
    )
    cache = next(c.cell_contents for c in one_pass.__closure__ if type(c.cell_contents).__name__ == "DynamicCache")
    before = [layer.keys.clone() for layer in cache.layers]
    for _ in range(3):
        one_pass()
        assert cache.get_seq_length() == tokens
        assert all((layer.keys == keys).all() for layer, keys in zip(cache.layers, before, strict=True))


def test_encoder_does_not_decode(here, capsys, tiny_backbone):
    assert status_of(*LOCAL, *QUICK, "--phase", "decode", "--context-len", "6") == 2
    assert "has no decoding" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 8])
def test_exported_model_computes_what_torch_computes(tiny_backbone, bits):
    """Twelve seconds of exporter: what ONNX Runtime times is the same network."""
    import numpy as np
    import torch

    from metas_peft.backbones import compact
    from metas_peft.core.subnet import Subnet
    from metas_peft.core.workload import Workload

    models = tiny_backbone.LocalModels("minilm", runtime="onnxruntime_cpu", threads=1)
    subnet = Subnet.prefix([4, 2, 0], [1, 1, 0]) if models.shape.ffn_blocks == 1 else Subnet.dense(models.shape)
    (logits,) = models.specimen(subnet).open(Workload(batch_size=3, seq_len=11, param_bits=bits))()
    torch_model = compact(models._network, models.shape, subnet)
    with torch.inference_mode():
        expected = torch_model(**models._inputs(Workload(batch_size=3, seq_len=11), "cpu")).logits.numpy()
    assert np.abs(logits - expected).max() < (1e-4 if bits == 32 else 0.5)


def test_planned_sheet_is_filled_in_and_imported(here, capsys):
    assert status_of("profile", "plan", "--device", "my-phone", "--out", "sheet.csv", "--count", "5") == 0
    assert capsys.readouterr().out.strip() == "sheet.csv"
    rows = list(csv.DictReader((here / "sheet.csv").open()))
    assert len(rows) == 5
    assert {r["device"] for r in rows} == {"my-phone"}
    for number, row in enumerate(rows[:3]):
        row["latency_ms"] = str(0.01 * (number + 1))
    with (here / "sheet.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert status_of("profile", "import", "sheet.csv", "--store", "store", "--unit", "latency=s") == 0
    assert "3 rows added" in capsys.readouterr().out
    found = RecordStore(here / "store").read().rows()
    assert [r["latency_ms"] for r in found] == pytest.approx([10.0, 20.0, 30.0])
    assert {r["origin"] for r in found} == {"imported"}


def test_import_tells_what_it_left_out(here, capsys):
    (here / "theirs.csv").write_text(
        "device,batch_size,flops,weight_bytes,t,note\nd,1,1e9,1e6,0.5,a\nd,1,1e9,1e6,-1,b\nd,1,1e9,1e6,0.7,c\n"
    )
    command = ("profile", "import", "theirs.csv", "--store", "store", "--map", "t=latency", "--unit", "latency=s")
    assert status_of(*command) == 1
    assert "row 2 of theirs.csv, column latency_ms" in capsys.readouterr().err
    assert status_of(*command, "--skip-invalid", "--json", "-") == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert (file["added"], len(file["left_out"])) == (2, 1)


@pytest.mark.parametrize(
    ("option", "message"), [(("--unit", "latency"), "equals sign"), (("--map", "a=b"), "is no column of a record")]
)
def test_import_options_that_make_no_sense_are_wrong_usage(here, capsys, option, message):
    (here / "theirs.csv").write_text("device\nd\n")
    assert status_of("profile", "import", "theirs.csv", "--store", "store", *option) == 2
    assert message in capsys.readouterr().err


def test_recording_is_replayed(here, capsys):
    save_trace(traces.wrap_around(traces.record(traces.Course()), 100.0), here / "trace.csv")
    assert status_of("devices", "replay", "trace.csv", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["total_j"] == pytest.approx(320.0, rel=0.005)
    assert abs(result["error_pct"]) < 0.5
    save_trace(traces.stuck(traces.record(traces.Course()), 2.0), here / "stuck.csv")
    assert status_of("devices", "replay", "stuck.csv") == 1
    assert "stood still" in capsys.readouterr().err


def test_check_lists_every_meter_with_what_it_takes(here, capsys):
    assert status_of("devices", "check", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["meters"]) == 12
    assert all(m["permission"] for m in result["meters"])
    assert "chmod a+r /sys/class/powercap" in next(m for m in result["meters"] if m["meter"] == "rapl")["permission"]
    assert "load_average" in result["conditions"]
    assert status_of("devices", "check") == 0
    assert "Noted with every measurement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("local", "--power", "ina219", "--meter-option", "ina219.bus=99"), 1, "/dev/i2c-99 does not exist"),
        (("local", "--power", "ina219", "--meter-option", "ina219.ohm=1"), 1, "ina219.shunt_ohm"),
        (("local", "--power", "ina219", "--meter-option", "shunt"), 2, "an equals sign"),
        (("local", "--power", "modelled", "--meter-option", "ina219.bus=1"), 2, "--power ina219"),
        (("pixel-8", "--meter-option", "ina219.bus=1"), 2, "belong to the device `local`"),
    ],
)
def test_options_of_meters_reach_them_or_are_refused(here, capsys, arguments, status, message):
    assert status_of("profile", "run", *arguments, "--store", "store", "--count", "2") == status
    assert message in capsys.readouterr().err


def test_check_takes_options_of_meters_and_says_that_phones_are_not_driven(here, capsys):
    assert status_of("devices", "check", "--meter-option", "ina219.bus=99", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)["meters"]
    assert [r["meter"] for r in rows if "i2c-99" in r["why_not"]] == ["ina219"]
    assert {r["meter"] for r in rows if r["origin"] == "measured" and not r["runtimes"]} == {
        "android-rails", "android-battery", "android-charge",
    }  # fmt: skip
    assert status_of("devices", "check") == 0
    assert capsys.readouterr().out.count("no command here") == 3
