"""gates.safetensors: back to the same gates and samples, or a sentence."""

import pytest
import torch

from metas_peft.core.errors import CheckpointError
from metas_peft.gates import GateSet, load_gates, save_gates
from metas_peft.testing.tiny import tiny_adapted

GATED = ("layer", "head", "rank")


@pytest.fixture(scope="module")
def shape():
    return tiny_adapted("bert")[1]


def trained(shape, **settings):
    gates = GateSet(shape, GATED, seed=3, **settings)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape))
    gates.sample()
    return gates


def test_gates_come_back_with_the_samples_that_would_have_followed(shape, tmp_path):
    gates = trained(shape)
    save_gates(gates, tmp_path, step=7, more={"exp_avg.head": torch.arange(4.0)})
    other = GateSet(shape, GATED, seed=99)
    more = load_gates(other, tmp_path, step=7)
    assert list(more) == ["exp_avg.head"]
    for name in GATED:
        assert torch.equal(other.log_alpha[name], gates.log_alpha[name])
    for _ in range(3):
        a, b = gates.sample(), other.sample()
        assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in GATED)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda shape: GateSet(tiny_adapted("llama")[1], GATED), "another shape: '3 layers of 4 head units"),
        (lambda shape: GateSet(tiny_adapted("bert", rank=5)[1], GATED), "ranks .*q 3.* where .*q 5"),
        (lambda shape: GateSet(shape, ("head",)), "another granularity: 'layer, head, rank', where 'head'"),
        (lambda shape: GateSet(shape, GATED, temperature=2.0), "another temperature: .*, where '2.0'"),
    ],
)
def test_gates_of_something_else_are_refused(shape, tmp_path, other, what):
    save_gates(trained(shape), tmp_path)
    gates = other(shape)
    before = {name: a.clone() for name, a in gates.log_alpha.items()}
    with pytest.raises(CheckpointError, match=what) as caught:
        load_gates(gates, tmp_path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, before[name]) for name, a in gates.log_alpha.items())


def test_gates_of_another_step_are_refused(shape, tmp_path):
    save_gates(trained(shape), tmp_path, step=7)
    with pytest.raises(CheckpointError, match=r"after step 7, but training resumes at step 8\. Name the"):
        load_gates(trained(shape), tmp_path, step=8)


def test_absent_and_damaged_files_are_told(shape, tmp_path):
    with pytest.raises(CheckpointError, match="absent or damaged"):
        load_gates(trained(shape), tmp_path)
    path = save_gates(trained(shape), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="absent or damaged"):
        load_gates(trained(shape), tmp_path)


def test_nothing_half_written_is_left(shape, tmp_path):
    save_gates(trained(shape), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["gates.safetensors"]
