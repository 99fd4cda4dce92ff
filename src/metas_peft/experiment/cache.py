"""Target measurements kept between runs, so that the same configuration is not measured twice."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from metas_peft.core.errors import CheckpointError
from metas_peft.core.files import read_json, write_json
from metas_peft.core.records import ProfileRecord
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet
from metas_peft.core.workload import Workload
from metas_peft.devices import Device

logger = logging.getLogger(__name__)


class MeasurementCache:
    """A folder of measurements, one JSON file per device, backbone, workload and seed.

    Args:
        folder: Where the files are; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def measure(
        self,
        subnets: Sequence[Subnet],
        shape: BackboneShape,
        workload: Workload,
        device: Device,
        seed: int,
        run: Callable[[Sequence[Subnet]], list[ProfileRecord]],
    ) -> list[ProfileRecord]:
        """Records of subnets, measured only where the cache has none.

        Args:
            subnets: What is wanted.
            shape: Backbone.
            workload: What a pass processes.
            device: Whose they are.
            seed: Of the measurement (a simulator's noise depends on it).
            run: Measures subnets; counted by the device.

        Raises:
            CheckpointError: A file in the folder is damaged.
        """
        facts = [dataclasses.asdict(part) for part in (device.spec, shape, workload)]
        text = json.dumps([*facts, device.identity, seed], sort_keys=True)
        path = self._folder / f"{device.spec.device_id}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
        known = self._read(path)
        missing = [subnet for subnet in subnets if subnet.key not in known]
        if len(missing) < len(subnets):
            logger.info("%d of %d measurements are taken from %s.", len(subnets) - len(missing), len(subnets), path)
        if missing:
            known |= {record.subnet_key: record for record in run(missing)}
            # What has no energy may have one the next time.
            whole = [record for record in known.values() if record.cost.energy_j is not None]
            write_json(path, [record.as_row() for record in whole])
        return [known[subnet.key] for subnet in subnets]

    def _read(self, path: Path) -> dict[str, ProfileRecord]:
        if not path.exists():
            return {}
        try:
            records = [ProfileRecord.from_row(row) for row in read_json(path)]
            return {record.subnet_key: record for record in records if record.is_valid}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}). Delete it; what it held is measured again."
            ) from error
