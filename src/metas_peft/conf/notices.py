"""What a run file asks for and will not get as written, in sentences for the log and the report."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from metas_peft.conf.keys import locate
from metas_peft.conf.methods import AS_DESCRIBED, METHODS, CostTerm, Method, Shape
from metas_peft.conf.schema import DEFAULT_TARGET, BudgetsConfig, RunConfig
from metas_peft.core.units import S_PER_MS
from metas_peft.devices.local import LOCAL
from metas_peft.devices.opening import find_entry
from metas_peft.devices.pools import POOLS


def notices(config: RunConfig) -> list[str]:
    """Sentences about keys that are obeyed in a way worth knowing, or that change nothing in this run."""
    return [*_target(config), *_pool(config), *budgets_at_odds(config.budgets), *_method(config),
            *_split(config), *_idle(config)]  # fmt: skip


def device_id(name: str) -> str:
    """Canonical name of a device.

    Raises:
        UnknownNameError: No such device.
        DeviceFileError: A device file that is not right.
    """
    return LOCAL if name.lower() == LOCAL else find_entry(name).device_id


def pool_names(config: RunConfig) -> tuple[str, ...]:
    """Devices of the meta-training pool as written, a named pool spelled out."""
    names = config.surrogate.meta_training_devices
    return POOLS[names[0]] if len(names) == 1 and names[0] in POOLS else names


def check_devices(config: RunConfig) -> None:
    """Make sure that every device that the configuration names exists.

    Raises:
        UnknownNameError: One does not; the message names the nearest.
    """
    for name in (config.target, *config.retarget, *pool_names(config)):
        device_id(name)


def _split(config: RunConfig) -> Iterator[str]:
    if config.evaluation.split == "holdout":
        yield (
            "evaluation.split=holdout: quality is that of the held-out part of the training set, on which choices are "
            "made; only a run on the evaluation examples says how good a choice is."
        )


def _target(config: RunConfig) -> Iterator[str]:
    profiling = config.hardware_profiling.target_device
    if config.device is None and profiling is None:
        yield f"No target device is named; {DEFAULT_TARGET} is taken."
    elif config.device is not None and profiling is not None and device_id(config.device) != device_id(profiling):
        yield f"device={config.device} replaces hardware_profiling.target_device={profiling}."


def _pool(config: RunConfig) -> Iterator[str]:
    if not _priced(_methods(config), CostTerm.SURROGATE, CostTerm.TARGET):
        return
    target = device_id(config.target)
    names = pool_names(config)
    dropped = [name for name in names if device_id(name) == target]
    if dropped:
        yield (
            f"surrogate.meta_training_devices lists {', '.join(dropped)}, which is the target; it is left out so that "
            f"the target stays unseen. {len(names) - len(dropped)} devices remain."
        )
    asked = config.surrogate.n_hardware_tags
    if asked is None:
        return
    if asked != len(names):
        yield (
            f"surrogate.n_hardware_tags is {asked}, but meta_training_devices names {len(names)} devices; "
            f"{len(names) - len(dropped)} tags are used, one per device learnt from, and a slot for the unseen target."
        )
    elif dropped:
        yield (
            f"surrogate.n_hardware_tags {asked}: {asked - len(dropped)} tags are used, "
            "and the slot of the device left out is the unseen target's."
        )


def budgets_at_odds(budgets: BudgetsConfig) -> list[str]:
    """Sentences about budgets of which one can never bind because of the others.

    A pass of at most L ms at no more than P W takes at most L x P; an energy budget above that says nothing.
    """
    energy_j, latency_ms, power_w = budgets.energy_j, budgets.latency_ms, budgets.peak_power_w
    if energy_j is None or latency_ms is None or power_w is None:
        return []
    most_j = latency_ms * S_PER_MS * power_w
    if energy_j < most_j:
        return []
    return [
        f"budgets: a pass within {latency_ms:g} ms and {power_w:g} W takes at most {most_j:.3g} J, so "
        f"energy_j={energy_j:g} never binds. (It may have been meant for a batch; budgets here are for one pass of "
        "evaluation.batch_size sequences.)"
    ]


def _method(config: RunConfig) -> Iterator[str]:
    method = METHODS[config.method]
    if method.changes:
        changes = ", ".join(f"{path}={value}" for path, value in method.changes.items())
        yield f"{method.name} sets {changes}."
    if method.name == "EChorda":
        key = "hardware_profiling.real_measurements_required"
        count = config.hardware_profiling.real_measurements_required
        yield f"EChorda measures the target {count} times before it trains ({key})."


@dataclass(frozen=True)
class _Idle:
    """Keys or sections that change nothing while a condition holds on the run and its methods, the main one first."""

    because: str
    keys: tuple[str, ...]
    when: Callable[[RunConfig, Sequence[Method]], bool]


_HARD_CONCRETE = (
    "model.gating.hard_concrete_temperature",
    "model.gating.gate_sparsity_regulariser",
    "model.gating.gate_learning_rate",
    "model.gating.gate_warmup",
    "model.gating.gate_ramp",
    "model.gating.granularity",
)
_GATE_KEYS = (*_HARD_CONCRETE, "training.gate_steps")
_IDLE = (
    _Idle("a single run does not search", ("optuna",), lambda c, m: True),
    _Idle(
        "with front=nested units are removed in order of importance, without hard-concrete gates",
        _GATE_KEYS,
        lambda c, m: c.front == "nested" and _some(m, Shape.GATED) and not _described(m),
    ),
    _Idle(
        "with front=gates trained gates decide what goes",
        ("training.path_steps",),
        lambda c, m: c.front == "gates" and all(x.name != "MetaS-PEFT-apart" for x in m),
    ),
    _Idle("no method here has gates", _HARD_CONCRETE, lambda c, m: not _some(m, Shape.GATED)),
    # Rules train as long as the front beside them would take, so they ask how it is made.
    _Idle("no method here makes smaller models", ("front",), lambda c, m: not _some(m, Shape.GATED, Shape.FIXED)),
    _Idle(
        "no method here has gates",
        ("training.gate_steps",),
        lambda c, m: not _some(m, Shape.GATED) and not (_some(m, Shape.FIXED) and c.front == "gates"),
    ),
    _Idle(
        "no method here makes smaller models",
        ("training.path_steps", "training.joint_steps", "evaluation.operating_points"),
        lambda c, m: not _some(m, Shape.GATED, Shape.FIXED),
    ),
    _Idle("this method trains all weights and has no adapters", ("model.peft",), lambda c, m: m[0].trains_all),
    *(
        _Idle(
            "EChorda looks at energy alone",
            (f"objective_weights.{name}",),
            lambda c, m, name=name: (
                not _priced(m, CostTerm.SURROGATE)
                and _priced(m, CostTerm.TARGET)
                and getattr(c.objective_weights, name) > 0
            ),
        )
        for name in ("mu_latency", "nu_power")
    ),
    _Idle(
        "no method here weighs predicted costs",
        ("objective_weights",),
        lambda c, m: not _priced(m, CostTerm.SURROGATE, CostTerm.TARGET),
    ),
    _Idle(
        "only a method with a surrogate is carried over to other devices",
        ("retarget",),
        lambda c, m: bool(c.retarget) and m[0].cost_term is not CostTerm.SURROGATE,
    ),
    _Idle(
        "training.warmup_steps replaces it",
        ("training.warmup_ratio",),
        lambda c, m: c.training.warmup_steps is not None,
    ),
    _Idle(
        "EChorda is neither the method nor a baseline here",
        ("hardware_profiling.real_measurements_required", "hardware_profiling.measurement_cache_dir"),
        lambda c, m: not _priced(m, CostTerm.TARGET),
    ),
    _Idle(
        "no method here uses a surrogate",
        ("surrogate",),
        lambda c, m: not _priced(m, CostTerm.SURROGATE, CostTerm.TARGET),
    ),
    _Idle(
        "EChorda fits a roofline to measurements of its own, and no method here is calibrated",
        (
            "surrogate.calibration_samples",
            "surrogate.calibration_method",
            "surrogate.calibration_design",
            "surrogate.kind",
        ),
        lambda c, m: _priced(m, CostTerm.TARGET) and not _priced(m, CostTerm.SURROGATE),
    ),
    _Idle(
        "they belong to the source's network, not to the roofline",
        ("surrogate.mixup", "surrogate.meta_learning"),
        lambda c, m: c.surrogate.kind == "roofline" or c.surrogate.calibration_method == "roofline",
    ),
    _Idle(
        "the surrogate that ships has learnt from no device of any pool (surrogate.kind=reference or roofline would)",
        ("surrogate.meta_training_devices", "surrogate.records", "surrogate.mixup", "surrogate.meta_learning"),
        lambda c, m: (
            _priced(m, CostTerm.SURROGATE)
            and c.surrogate.kind in ("auto", "metas")
            and c.surrogate.calibration_method != "roofline"
            and c.surrogate.checkpoint_path is None
        ),
    ),
    _Idle(
        "nothing is calibrated with surrogate.calibration_samples=0",
        ("surrogate.calibration_method", "surrogate.calibration_design"),
        lambda c, m: c.surrogate.calibration_samples == 0,
    ),
)


def _some(methods: Sequence[Method], *shapes: Shape) -> bool:
    return any(method.shape in shapes for method in methods)


def _described(methods: Sequence[Method]) -> bool:
    """Whether hard-concrete gates are trained whatever the front."""
    return any(method.shape is Shape.GATED and method.setting == AS_DESCRIBED for method in methods)


def _priced(methods: Sequence[Method], *terms: CostTerm) -> bool:
    return any(method.cost_term in terms for method in methods)


def _methods(config: RunConfig) -> list[Method]:
    """The methods of a run, the main one first."""
    return [METHODS[name] for name in (config.method, *config.evaluation.baselines)]


def without_effect(config: RunConfig, paths: Iterable[str]) -> dict[str, str]:
    """Which of some keys change nothing in this run -> why."""
    rules = [rule for rule in _IDLE if rule.when(config, _methods(config))]
    return {
        path: rule.because
        for rule in reversed(rules)
        for path in paths
        if any(f"{path}.".startswith(f"{key}.") for key in rule.keys)
    }


def _idle(config: RunConfig) -> Iterator[str]:
    methods = _methods(config)
    for rule in _IDLE:
        if not rule.when(config, methods):
            continue
        named = sorted(path for path in config.given if any(f"{path}.".startswith(f"{key}.") for key in rule.keys))
        sections = [key for key in rule.keys if locate(key.split(".")).is_section]
        shown = [s for s in sections if any(n.startswith(f"{s}.") for n in named)]
        shown += [n for n in named if not any(n.startswith(f"{s}.") for s in sections)]
        if shown:
            yield f"Without effect in this run: {', '.join(shown)}; {rule.because}."
