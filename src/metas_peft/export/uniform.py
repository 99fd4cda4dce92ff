"""Members of a uniform shape: the same heads and neurons in every layer, for runtimes that know no other."""

from metas_peft.core.errors import SubnetError
from metas_peft.core.shape import BackboneShape
from metas_peft.core.subnet import LayerPlan, Subnet
from metas_peft.core.workload import Workload
from metas_peft.costs import Counts, paper_cost


def uniform(subnet: Subnet, shape: BackboneShape, workload: Workload | None = None) -> Subnet:
    """The largest uniform subnet within the FLOPs of another.

    It keeps the layers of which the other keeps anything, whole layers only, and in each the first so many heads and
    FFN blocks in order of importance; of several with the same FLOPs, the one nearest to the other's own proportion
    of heads to blocks.

    Args:
        subnet: What bounds the FLOPs.
        shape: Shape of the backbone.
        workload: What the FLOPs are counted for; a prefill of 128 tokens by default.

    Raises:
        SubnetError: Not even one head and one block per layer fit.
    """
    workload = workload if workload is not None else Workload()
    limit = float(paper_cost(shape, Counts.of(subnet, shape), workload).flops)
    kept = [layer.is_kept for layer in subnet.layers]
    wanted = subnet.kept_heads * shape.ffn_blocks / max(subnet.kept_ffn_blocks * shape.n_kv_heads, 1)
    fitting = []
    for heads in range(1, shape.n_kv_heads + 1):
        for blocks in range(1, shape.ffn_blocks + 1):
            choice = _same(kept, heads, blocks)
            flops = float(paper_cost(shape, Counts.of(choice, shape), workload).flops)
            if flops <= limit:
                proportion = heads * shape.ffn_blocks / (blocks * shape.n_kv_heads)
                fitting.append((flops, -abs(proportion - wanted), choice))
    if not fitting:
        raise SubnetError(
            f"One head and one FFN block in each of {sum(kept)} layers already cost more than {subnet.key}. "
            "Choose a larger member."
        )
    return max(fitting, key=lambda found: found[:2])[2]


def _same(kept: list[bool], heads: int, blocks: int) -> Subnet:
    there = LayerPlan(True, True, tuple(range(heads)), tuple(range(blocks)))
    return Subnet(tuple(there if is_kept else LayerPlan(False, False, (), ()) for is_kept in kept))
