"""Sizes of a transformer, as far as they decide what a pass costs and what can be cut away."""

from dataclasses import dataclass

FFN_SITES = ("up", "gate", "gate_up", "down")


@dataclass(frozen=True)
class AdapterSite:
    """One kind of linear map that carries a LoRA adapter in every layer.

    Attributes:
        name: Canonical name: `q`, `k`, `v`, `o`, `up`, `gate`, `down`; fused `qkv`, `gate_up`; of latent attention
            `q_down`, `q_up`, `kv_down`, `kv_up`.
        rank: LoRA rank before any rank is removed.
        ends: Inputs and outputs of the map together: those that always stay, and those of each unit (head unit or
            neuron). None where the backbone's shape tells them.
        extra_rows: Rows that a pass sends through the map besides its tokens (relative positions).
    """

    name: str
    rank: int
    ends: tuple[int, int] | None = None
    extra_rows: int = 0

    @property
    def is_ffn(self) -> bool:
        """Whether the site belongs to the feed-forward sub-layer."""
        return self.name in FFN_SITES


@dataclass(frozen=True)
class MapSizes:
    """Weights on one side of a sub-layer's units, and the multiply-adds that they cost each token.

    Attributes:
        fixed_params: Stored values that stay as long as a unit does (latent maps, a key and value shared by all).
        unit_params: Stored values that go with each unit.
        fixed_macs: Multiply-adds per token of the former.
        unit_macs: Multiply-adds per token of the latter; fewer than stored where a token passes few of many experts.
    """

    fixed_params: int
    unit_params: int
    fixed_macs: int
    unit_macs: int


@dataclass(frozen=True)
class SubLayerSizes:
    """Sizes of one sub-layer whose units are head units (attention) or neurons (feed-forward).

    Attributes:
        entry: Maps into the units.
        exit: Maps from the units back to the residual; its fixed values (a bias) stay without any unit.
        norm_params: Stored values beside the maps that stay with the sub-layer.
        scores: Attention: multiply-adds per token, token attended to and unit.
        cache: Attention: cached values per token that always stay, and those of each unit.
        position_macs: Attention: multiply-adds of a pass per relative position and unit, however many tokens.
        position_scores: Attention: multiply-adds per token, relative position and unit.
        positions: Attention: relative positions that a pass projects and compares with.
        window: Attention: most tokens that a decoded one attends to, itself included; 0 for all of them. (A prefill
            computes masked scores as well.)
    """

    entry: MapSizes
    exit: MapSizes
    norm_params: int
    scores: int = 0
    cache: tuple[int, int] = (0, 0)
    position_macs: int = 0
    position_scores: int = 0
    positions: int = 0
    window: int = 0


@dataclass(frozen=True)
class BackboneShape:
    """Sizes of a transformer, as far as they decide what a pass costs.

    Attributes:
        model_id: Name for people and records.
        family: Name of the backbone family, e.g. `bert`.
        n_layers: Transformer blocks.
        hidden: Width of the residual stream.
        n_heads: Query heads per layer.
        n_kv_heads: Head units per layer, on which gates act: groups of query heads with their key and value head;
            where all query heads share one key and value head (which stays), or keys and values come from a latent,
            the query heads one by one.
        head_size: Width of one head.
        ffn_size: Inner neurons of the feed-forward block.
        ffn_matrices: 2 (up, down) or 3 (gate, up, down).
        ffn_blocks: Blocks into which the neurons are divided for gating.
        attention_bias: Whether q, k, v carry a bias.
        output_bias: Whether the attention output projection carries a bias.
        ffn_bias: Whether the feed-forward maps carry a bias.
        norm_params: Parameters of one normalisation layer; each sub-layer has one.
        embedding_params: Parameters in embeddings and their norm.
        head_params: Parameters after the last layer: final norm, pooler, task head.
        head_flops_per_sequence: FLOPs after the last layer that do not grow with the length (pooler, classifier).
        head_flops_per_token: FLOPs after the last layer per token (a language-model head).
        causal: Whether a token sees only earlier ones.
        sites: Adapter sites present in every layer.
        layer_sizes: Attention and feed-forward sizes per layer, where the figures above do not tell them (norms inside
            heads, latent attention, experts, layers of different kinds); empty where they do.
    """

    model_id: str
    family: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_size: int
    ffn_matrices: int
    ffn_blocks: int
    attention_bias: bool
    output_bias: bool
    ffn_bias: bool
    norm_params: int
    embedding_params: int
    head_params: int
    head_flops_per_sequence: int
    head_flops_per_token: int
    causal: bool
    sites: tuple[AdapterSite, ...] = ()
    layer_sizes: tuple[tuple[SubLayerSizes, SubLayerSizes], ...] = ()

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key and value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def block_size(self) -> int:
        """Neurons in one FFN block."""
        return self.ffn_size // self.ffn_blocks
