import subprocess
import sys

import pytest

from metas_peft.core.errors import DeviceFileError, UnknownNameError
from metas_peft.core.registry import canonical
from metas_peft.devices import catalogue, find_entry, load_entry
from metas_peft.devices.entry import Mark

IDS = [
    "a100", "epyc", "h200", "intel-ncs2", "iphone-15", "jetson-nano", "jetson-orin-nx", "macbook-m1-pro", "macbook-m2",
    "pixel-8", "raspberry-pi-4", "rtx-a6000",
]  # fmt: skip
SPELLINGS = {
    "RTX-A6000": "rtx-a6000", "Jetson-Orin-NX": "jetson-orin-nx", "MacBook-M2": "macbook-m2", "Mac-M2": "macbook-m2",
    "iPhone-15": "iphone-15", "iPhone-15-NPU": "iphone-15", "Raspberry-Pi-4": "raspberry-pi-4", "Pixel-8": "pixel-8",
    "Pixel-8-TPU": "pixel-8", "Google-Pixel-8-EdgeTPU": "pixel-8", "A6000": "rtx-a6000", "H200": "h200",
}  # fmt: skip


def test_catalogue_holds_the_twelve_devices():
    assert sorted(catalogue()) == IDS


def test_aliases_are_unique_over_all_devices():
    spellings = [(canonical(s), i) for i in IDS for s in {canonical(a) for a in (i, *catalogue()[i].aliases)}]
    assert len(spellings) >= 45
    assert len({s for s, _ in spellings}) == len(spellings)


@pytest.mark.parametrize(("spelling", "device"), SPELLINGS.items())
def test_alias_finds_its_device(spelling, device):
    assert catalogue().resolve(spelling) == device


def test_unknown_device_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'pixel-8'"):
        find_entry("pixel-9")


def test_every_figure_carries_a_mark_and_every_entry_its_sources():
    for name in catalogue():
        entry = catalogue()[name]
        assert entry.sources
        assert entry.marks["power.idle_w"] in Mark
        assert len(entry.marks) >= 2 * len(entry.rates) + 11
        assert entry.assumptions(), f"{name}: some figure is always an assumption"


def test_figures_carried_over_when_looked_up():
    pixel, a100 = catalogue()["pixel-8"], catalogue()["a100"]
    assert pixel.rates["cpu_fp32"].peak_tflops == 0.3
    assert pixel.cap_w == 9
    assert pixel.marks["rates.int8.peak_tflops"] is Mark.ASSUMED
    assert a100.rates["int8"].peak_tflops == 624
    assert a100.variant("80 GB").bandwidth_gb_per_s == 2039


def test_pixel_computes_in_float32_on_its_processor_by_default():
    pixel = catalogue()["pixel-8"]
    assert pixel.default_runtime == "litert_cpu"
    assert pixel.spec().peak_gflops == pytest.approx(300)
    assert pixel.runtime().precision_for(16).bits == 32
    assert pixel.runtime("litert_edgetpu").precision_for(32).rate == "int8"


@pytest.mark.parametrize(("bits", "label"), [(32, "fp32"), (16, "fp16"), (8, "fp16"), (4, "fp16")])
def test_precision_is_the_narrowest_that_holds_the_weights(bits, label):
    runtime = catalogue()["rtx-a6000"].runtime("pytorch_eager")
    assert runtime.precision_for(bits) is runtime.precisions[label]


def test_precision_is_the_widest_there_is_when_weights_are_wider():
    runtime = catalogue()["rtx-a6000"].runtime("tensorrt")
    assert runtime.precision_for(32) is runtime.precisions["fp16"]
    assert runtime.precision_for(4) is runtime.precisions["int8"]


def test_unknown_runtime_names_the_nearest():
    with pytest.raises(UnknownNameError, match="litert_cpu"):
        catalogue()["pixel-8"].runtime("litert-gpu")


def test_users_own_file_is_a_device(tmp_path, round_device_text):
    path = tmp_path / "mine.yaml"
    path.write_text(round_device_text)
    entry = find_entry(str(path))
    assert (entry.device_id, entry.spec().peak_gflops, entry.remarks["rates.full.pj_per_flop"]) == (
        "round",
        1000,
        "a remark",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  full: {", "  fuller: {", "rate 'full' is not among the rates"),
        ("size_gb: [1, vendor]", "size_mb: [1, vendor]", "memory.size_gb is missing; did you mean 'size_mb'"),
        ("[10, vendor]", "[10]", r"bandwidth_gb_per_s is \[10\]; expected \[value, mark\]"),
        ("[10, vendor]", "[10, vender]", "did you mean 'vendor'"),
        ("[10, vendor]", "[-1, vendor]", "expected at least"),
        ("[10, vendor]", "[.nan, vendor]", "expected a finite number"),
        ("[10, vendor]", "[ten, vendor]", "expected a finite number"),
        ("style: fused", "style: fusd", "did you mean 'fused'"),
        ("memory_efficiency: 0.5", "memory_efficiency: 1.5", "expected a number from"),
        ("boundary: board", "boundary: board, cap: 3", "unknown key power.cap"),
        ("default_runtime: plain", "default_runtime: plane", "default_runtime 'plane'"),
        ("cap_w: [1000, vendor]", "cap_w: [2.5, vendor]", "not below power.cap_w"),
        ("kind: gpu", "kind: gpu\nkind: cpu", "line 5, column 1: key 'kind' appears twice"),
        ("kind: gpu", "kind: [gpu", "line"),
        ("style: fused", "style: fused\n    stored_bits: {q4: 4.5}", "expected a number of bits as the key"),
    ],
)
def test_device_file_error_says_what_is_wrong(tmp_path, round_device_text, old, new, message):
    assert old in round_device_text
    path = tmp_path / "mine.yaml"
    path.write_text(round_device_text.replace(old, new, 1))
    with pytest.raises(DeviceFileError, match=message):
        load_entry(path)


@pytest.mark.parametrize("bytes_", ["name: Téléphone".encode("latin-1"), b"name: a\x07b"])
def test_device_file_that_is_no_plain_text_is_said(tmp_path, bytes_):
    path = tmp_path / "mine.yaml"
    path.write_bytes(bytes_)
    with pytest.raises(DeviceFileError, match=r"mine.yaml is no plain text in UTF-8"):
        load_entry(path)


def test_absent_device_file_is_said(tmp_path):
    with pytest.raises(DeviceFileError, match="No such file"):
        find_entry(str(tmp_path / "none.yaml"))


def test_importing_and_simulating_needs_no_torch():
    code = (
        "import sys; from metas_peft.devices import open_device, check_meters; open_device('pixel-8'); check_meters(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode
        == 0
    )
