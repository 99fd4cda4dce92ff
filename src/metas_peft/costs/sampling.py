"""Random sub-networks of all sizes: what a model of a device is fitted to."""

import numpy as np

from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import Subnet

SMALLEST = 0.1  # of the heads and FFN blocks
DRAWS_PER_SUBNET = 100  # before the backbone is called too small


def random_prefixes(shape: BackboneShape, count: int, *, seed: int) -> list[Subnet]:
    """Distinct random prefix subnets, sizes uniform between 10 % and everything.

    Args:
        shape: The backbone.
        count: How many.
        seed: Decides all of them.

    Raises:
        SubnetError: The backbone has not that many.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Subnet] = {}
    for _ in range(DRAWS_PER_SUBNET * count):
        if len(found) == count:
            break
        size = rng.uniform(SMALLEST, 1.0)
        heads = rng.binomial(shape.n_kv_heads, size, shape.n_layers)
        blocks = rng.binomial(shape.ffn_blocks, size, shape.n_layers)
        if heads.sum() + blocks.sum():
            subnet = Subnet.prefix(heads.tolist(), blocks.tolist())
            found[subnet.key] = subnet
    if len(found) < count:
        raise SubnetError(
            f"{shape.model_id} gave {len(found)} different sub-networks, {count} were asked for. Ask for fewer."
        )
    return list(found.values())
