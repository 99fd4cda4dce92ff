"""A small pool of made-up devices that follow a per-operation roofline, and records of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from metas_peft.core.cost import Cost, Origin, PaperCost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, ROBERTA_BASE, Counts, kernels, layer_ops, outer_op
from metas_peft.devices.base import Device, Purpose, Specimen, make_record, stacked_papers
from metas_peft.surrogate import MetaTrained, MetaTraining, simulate_pool, train


@dataclass(frozen=True)
class Physique:
    """Numbers of a made-up device: 1e9 FLOP/s, 1e9 byte/s, ms per kernel, W, pJ."""

    gflops: float
    gbytes: float
    overhead_ms: float
    idle_w: float
    cap_w: float
    pj_per_flop: float
    pj_per_byte: float
    noise: float = 0.01


PHYSIQUES = {
    "desk": Physique(8000, 300, 0.006, 60, 300, 4, 90),
    "board": Physique(900, 40, 0.02, 5, 25, 6, 60),
    "laptop": Physique(1500, 80, 0.01, 4, 25, 5, 60),
    "phone": Physique(500, 20, 0.03, 1, 9, 5, 60),
    "pi": Physique(8, 3, 0.01, 3, 7, 150, 150),
}


class FakeDevice(Device):
    """Each operation takes the longer of computing and moving bytes, plus an overhead."""

    def __init__(self, name: str) -> None:
        self.physique = PHYSIQUES[name]
        p = self.physique
        super().__init__(DeviceSpec(name, name, "fake", "none", p.gflops, p.gbytes, p.idle_w, p.cap_w))

    def truth(self, shape: BackboneShape, counts: Counts[np.ndarray], workload: Workload) -> Cost[np.ndarray]:
        p = self.physique
        time = p.overhead_ms * kernels(counts, 10)
        flops = byte = np.zeros(())
        peak = np.zeros(())
        for op in [*layer_ops(shape, counts, workload), outer_op(shape, counts, workload)]:
            moved = op.weight_bytes + op.act_bytes + op.kv_bytes
            ms = np.maximum(op.flops / p.gflops, moved / p.gbytes) * 1e-6
            watts = (op.flops * p.pj_per_flop + moved * p.pj_per_byte) * 1e-12 / (ms * 1e-3 + 1e-12)
            time, flops, byte = time + ms.sum(-1), flops + op.flops.sum(-1), byte + moved.sum(-1)
            peak = np.maximum(peak, watts.max(-1))
        energy = p.idle_w * time * 1e-3 + (flops * p.pj_per_flop + byte * p.pj_per_byte) * 1e-12
        energy = np.minimum(energy, p.cap_w * time * 1e-3)
        return Cost(energy, time, np.minimum(np.maximum(p.idle_w + peak, energy / time * 1e3), p.cap_w))

    def _measure(
        self, specimens: Sequence[Specimen], workload: Workload, purpose: Purpose, seed: int
    ) -> list[ProfileRecord]:
        rng = np.random.default_rng(seed)
        records = []
        for specimen, paper in zip(specimens, stacked_papers(specimens, workload), strict=True):
            truth = self.truth(specimen.shape, Counts.of(specimen.subnet, specimen.shape), workload)
            cost = truth.map(lambda v: float(v * np.exp(self.physique.noise * rng.normal())))
            records.append(make_record(self.spec, specimen, workload, paper, cost, Cost.uniform(Origin.SIMULATED)))
        return records


@pytest.fixture(scope="session")
def fake_device() -> Callable[[str], FakeDevice]:
    return FakeDevice


@pytest.fixture(scope="session")
def pool_devices() -> list[FakeDevice]:
    return [FakeDevice(name) for name in ("board", "desk", "laptop", "pi")]


@pytest.fixture(scope="session")
def pool_records(pool_devices: list[FakeDevice]) -> list[ProfileRecord]:
    return simulate_pool(pool_devices, [MINILM, ROBERTA_BASE], records=800, seed=3)


@pytest.fixture(scope="session")
def short_training() -> MetaTraining:
    return MetaTraining(steps=60, query=16, mixup_rows=32)


@pytest.fixture(scope="session")
def trained(
    pool_records: list[ProfileRecord], pool_devices: list[FakeDevice], short_training: MetaTraining
) -> MetaTrained:
    specs = {d.spec.device_id: d.spec for d in pool_devices}
    return train(pool_records, seed=0, specs=specs, networks=1, training=short_training, draws=8, target="phone")


@pytest.fixture
def paper() -> PaperCost[float]:
    return PaperCost(flops=1e9, weight_bytes=4e7, act_bytes=8e6, kv_bytes=0.0, n_ops=60.0)
