"""Records to meta-train on: gate configurations of known backbones, measured on the devices of a pool.

The pool is *crossed*: every device runs the same sub-networks under the same workloads, so that two devices can
be compared, and blended, pass by pass. It is made of *settings*, each a backbone under one workload with a few dozen
sub-networks from very small to dense, because a calibration on a new device also happens within a setting.
"""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metas_peft.core.errors import MeasurementError, UsageError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import AdapterSite, BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts
from metas_peft.devices.base import Device, Purpose, Specimen
from metas_peft.devices.simulated import SimulatedDevice

logger = logging.getLogger(__name__)

MOST_RECORDS = 3000
SUBNETS_PER_SETTING = 24
SEQ_LENS = (32, 64, 96, 128, 192, 256)
BATCH_SIZES = (1, 1, 2, 4, 8)
CONTEXT_LENS = (64, 128, 256, 512)
DECODE_SHARE = 0.4
SEPARATE_SHARE = 0.25
# Beyond so many bytes a backbone is not run in 32 bits by anybody.
LARGEST_FULL_PRECISION_BYTES = 8e9


@dataclass(frozen=True)
class Setting:
    """One backbone under one workload, and the sub-networks to run."""

    shape: BackboneShape
    workload: Workload
    subnets: tuple[Subnet, ...]


def simulate_pool(
    devices: Sequence[Device],
    shapes: Sequence[BackboneShape],
    *,
    records: int = 2400,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> list[ProfileRecord]:
    """Measure a crossed pool.

    Args:
        devices: The pool's devices; counted in their ledgers under `Purpose.POOL`.
        shapes: Backbones, in turn.
        records: At most so many records, fewer than 3,000.
        seed: Decides settings, sub-networks and the devices' noise.
        progress: Called with the finished part in [0, 1].

    Returns:
        Records of all devices. What a device has no memory for is missing there.

    Raises:
        UsageError: Too many records asked for, too few for one setting per device, or no device or shape given.
    """
    if not devices or not shapes:
        raise UsageError(f"{len(devices)} devices and {len(shapes)} backbones given; a pool needs one of each.")
    if records >= MOST_RECORDS:
        raise UsageError(f"{records} records asked for; the method promises fewer than {MOST_RECORDS}.")
    settings = records // (len(devices) * SUBNETS_PER_SETTING)
    if settings < 1:
        least = len(devices) * SUBNETS_PER_SETTING
        raise UsageError(f"{records} records are too few for {len(devices)} devices; ask for {least} or more.")
    rng = np.random.default_rng(seed)
    found: list[ProfileRecord] = []
    for number in range(settings):
        setting = draw_setting(shapes[number % len(shapes)], rng)
        for device in devices:
            specimens = _fitting(device, setting)
            # By name, so that a device's noise does not depend on who else is in the pool.
            noise = zlib.crc32(f"{seed}/{number}/{device.spec.device_id}".encode())
            try:
                found += device.measure(specimens, setting.workload, purpose=Purpose.POOL, seed=noise)
            except MeasurementError as error:
                logger.warning(
                    "%s is left out of the pool for %s with %s: %s",
                    device.spec.device_id,
                    setting.shape.model_id,
                    setting.workload,
                    error,
                )
        if progress is not None:
            progress((number + 1) / settings)
    return found


def _fitting(device: Device, setting: Setting) -> list[Specimen]:
    """The sub-networks that a simulator has memory for; a real device refuses the others by itself.

    Nobody deploys what swaps, and the tenfold slowness of it would teach cliffs to every predictor.
    """
    specimens = [Specimen(subnet, setting.shape) for subnet in setting.subnets]
    if not isinstance(device, SimulatedDevice):
        return specimens
    counts = Counts.stack(setting.subnets, setting.shape)
    is_swapping = device.simulate(setting.shape, counts, setting.workload).is_swapping
    return [specimen for specimen, swaps in zip(specimens, is_swapping, strict=True) if not swaps]


def draw_setting(shape: BackboneShape, rng: np.random.Generator, subnets: int = SUBNETS_PER_SETTING) -> Setting:
    """A random workload for a backbone, and random sub-networks, the dense one among them."""
    separate = rng.random() < SEPARATE_SHARE
    if not shape.sites:
        shape = dataclasses.replace(shape, sites=(AdapterSite("q", 8), AdapterSite("v", 8)))
    full_bytes = 4 * shape.n_layers * shape.hidden * (4 * shape.hidden + shape.ffn_matrices * shape.ffn_size)
    widths = (32, 16, 8) if full_bytes < LARGEST_FULL_PRECISION_BYTES else (16, 8)
    decode = shape.causal and rng.random() < DECODE_SHARE
    workload = Workload(
        phase="decode" if decode else "prefill",
        batch_size=int(rng.choice(BATCH_SIZES)),
        seq_len=1 if decode else int(rng.choice(SEQ_LENS)),
        context_len=int(rng.choice(CONTEXT_LENS)) if decode else 0,
        param_bits=int(rng.choice(widths)),
        adapter="separate" if separate else "merged",
    )
    chosen: dict[str, Subnet] = {}
    dense = Subnet.dense(shape)
    chosen[dense.key] = dense
    while len(chosen) < subnets:
        subnet = draw_subnet(shape, rng, with_ranks=separate)
        chosen.setdefault(subnet.key, subnet)
    return Setting(shape, workload, tuple(chosen.values()))


def draw_subnet(shape: BackboneShape, rng: np.random.Generator, with_ranks: bool = False) -> Subnet:
    """A random prefix sub-network; its size is spread evenly from one unit to everything.

    One in three is uniform (every kept layer alike), the others scatter about a common width; whole layers are
    dropped in half of them.
    """
    width_heads, width_ffn = rng.uniform(0.05, 1.0, size=2)
    if rng.random() < 0.5:
        width_ffn = width_heads
    scatter = 0.0 if rng.random() < 1 / 3 else rng.uniform(0.05, 0.4)
    spread = rng.normal(0.0, scatter, size=(2, shape.n_layers)) if scatter else np.zeros((2, shape.n_layers))
    heads = np.clip(np.rint((width_heads + spread[0]) * shape.n_kv_heads), 0, shape.n_kv_heads).astype(int)
    blocks = np.clip(np.rint((width_ffn + spread[1]) * shape.ffn_blocks), 0, shape.ffn_blocks).astype(int)
    if rng.random() < 0.5:
        kept = int(rng.integers(1, shape.n_layers + 1))
        dropped = rng.permutation(shape.n_layers)[kept:]
        heads[dropped] = 0
        blocks[dropped] = 0
    if not (heads.any() or blocks.any()):
        blocks[rng.integers(shape.n_layers)] = 1
    subnet = Subnet.prefix(heads.tolist(), blocks.tolist())
    return _with_ranks(subnet, shape, rng) if with_ranks else subnet


def _with_ranks(subnet: Subnet, shape: BackboneShape, rng: np.random.Generator) -> Subnet:
    def plan(layer: LayerPlan) -> LayerPlan:
        ranks = tuple(tuple(range(int(rng.integers(0, site.rank + 1)))) for site in shape.sites)
        return dataclasses.replace(layer, ranks=ranks)

    return Subnet(tuple(plan(layer) for layer in subnet.layers))
