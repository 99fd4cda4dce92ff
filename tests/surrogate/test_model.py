import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metas_peft.core.cost import METRICS, PaperCost
from metas_peft.core.device import DeviceSpec
from metas_peft.core.errors import CalibrationError, InvalidRecordError, UnknownNameError
from metas_peft.core.records import ProfileRecord
from metas_peft.core.workload import Workload
from metas_peft.costs import MINILM, Counts, paper_cost
from metas_peft.devices import Device, Purpose, Specimen
from metas_peft.surrogate import MetaTrained, MetaTraining, Surrogate, percent_errors, train
from metas_peft.surrogate.pool import draw_subnet

WORKLOAD = Workload(seq_len=64)
KINDS = ["reference", "roofline"]


@pytest.fixture(scope="module")
def five(fake_device: Callable[[str], Device]) -> list[ProfileRecord]:
    rng = np.random.default_rng(11)
    specimens = [Specimen(draw_subnet(MINILM, rng), MINILM) for _ in range(5)]
    return fake_device("phone").measure(specimens, WORKLOAD, purpose=Purpose.CALIBRATION)


@pytest.fixture(scope="module", params=KINDS)
def surrogate(
    request: pytest.FixtureRequest,
    trained: MetaTrained,
    five: list[ProfileRecord],
    fake_device: Callable[[str], Device],
) -> Surrogate:
    return trained.fit(request.param, five, fake_device("phone").spec)


def soft_counts(seed: int = 0, dtype: torch.dtype = torch.float64) -> Counts[torch.Tensor]:
    """Fractional counts, as gates give them, shape (L,)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(high: float) -> torch.Tensor:
        return (torch.rand(6, generator=generator, dtype=dtype) * 0.6 + 0.3) * high

    return Counts(uniform(1.0), uniform(1.0), uniform(12.0), uniform(1536.0), torch.zeros(6, 0, dtype=dtype))


def test_fitted_roofline_predicts_the_unseen_phone(
    trained: MetaTrained, five: list[ProfileRecord], fake_device: Callable[[str], Device]
) -> None:
    phone = fake_device("phone")
    model = trained.fit("roofline", five, phone.spec).bind(MINILM, WORKLOAD)
    rng = np.random.default_rng(12)
    counts = Counts.stack([draw_subnet(MINILM, rng) for _ in range(80)], MINILM)
    predicted = np.stack([v for _, v in model(counts).items()], axis=-1)
    truth = np.stack([v for _, v in phone.truth(MINILM, counts, WORKLOAD).items()], axis=-1)
    assert percent_errors(predicted, truth).mean(0).max() < 5


def test_gradient_through_bind_equals_finite_differences(surrogate: Surrogate) -> None:
    model, counts, epsilon = surrogate.bind(MINILM, WORKLOAD), soft_counts(), 1e-6
    for metric in METRICS:
        for field in ("attention", "ffn", "heads", "neurons"):
            leaf = getattr(counts, field).clone().requires_grad_()
            getattr(model(dataclasses.replace(counts, **{field: leaf})), metric).backward()
            assert leaf.grad is not None
            for layer in (0, 5):
                nudge = torch.zeros(6, dtype=torch.float64)
                nudge[layer] = epsilon
                up, down = (
                    float(getattr(model(dataclasses.replace(counts, **{field: getattr(counts, field) + s})), metric))
                    for s in (nudge, -nudge)
                )
                assert float(leaf.grad[layer]) == pytest.approx((up - down) / (2 * epsilon), rel=2e-3, abs=1e-9)


def test_gradient_says_that_keeping_more_costs_more(trained: MetaTrained, five: list[ProfileRecord]) -> None:
    model, counts = trained.fit("roofline", five).bind(MINILM, WORKLOAD), soft_counts()
    heads = counts.heads.clone().requires_grad_()
    cost = model(dataclasses.replace(counts, heads=heads))
    for value in (cost.energy_j, cost.latency_ms):
        (gradient,) = torch.autograd.grad(value, heads, retain_graph=True)
        assert (gradient > 0).all()


def test_arrays_and_tensors_agree_in_value_shape_and_type(surrogate: Surrogate) -> None:
    model = surrogate.bind(MINILM, WORKLOAD)
    rng = np.random.default_rng(0)
    arrays = Counts.stack([draw_subnet(MINILM, rng) for _ in range(7)], MINILM)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        tensors = Counts(*(torch.tensor(a, dtype=dtype) for a in dataclasses.astuple(arrays)))
        for (_, a), (_, t) in zip(model(arrays).items(), model(tensors).items(), strict=True):
            assert isinstance(a, np.ndarray)
            assert a.shape == t.shape == (7,)
            assert t.dtype == dtype
            assert t.numpy() == pytest.approx(a, rel=tolerance)


def test_numbers_in_give_numbers_out(surrogate: Surrogate, paper: PaperCost[float]) -> None:
    cost = surrogate.predict(paper, WORKLOAD)
    assert all(type(value) is float and value > 0 for _, value in cost.items())


def test_bind_prices_what_predict_prices(surrogate: Surrogate) -> None:
    counts = Counts.dense(MINILM)
    bound = surrogate.bind(MINILM, WORKLOAD)(counts)
    assert bound == surrogate.predict(paper_cost(MINILM, counts, WORKLOAD), WORKLOAD)


counted = st.floats(1.0, 1e13)


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(counted, min_size=5, max_size=5),
    which=st.integers(0, 4),
    factor=st.floats(1.0, 50.0),
    bits=st.sampled_from([32, 16, 8]),
)
def test_fitted_roofline_is_positive_possible_and_monotone(
    trained: MetaTrained, five: list[ProfileRecord], counts: list[float], which: int, factor: float, bits: int
) -> None:
    spec = DeviceSpec("phone", "phone", "x", "x", None, None, None, 9.0)
    surrogate = trained.fit("roofline", five, spec)
    more = [c * factor if i == which else c for i, c in enumerate(counts)]
    workload = Workload(seq_len=64, param_bits=bits)
    low, high = (surrogate.predict(PaperCost(*c), workload) for c in (counts, more))
    for cost in (low, high):
        assert min(value for _, value in cost.items()) > 0
        assert cost.energy_j / (cost.latency_ms * 1e-3) <= cost.peak_power_w * (1 + 1e-9)
        assert cost.peak_power_w <= 9.0 * (1 + 1e-9)
    assert high.energy_j >= low.energy_j * (1 - 1e-9)
    assert high.latency_ms >= low.latency_ms * (1 - 1e-9)


def test_points_and_scale_tell_how_the_surrogate_was_fitted(surrogate: Surrogate, five: list[ProfileRecord]) -> None:
    assert [p.key for p in surrogate.points] == [r.subnet_key for r in five]
    assert [p.measured for p in surrogate.points] == [r.cost for r in five]
    for point, record in zip(surrogate.points, five, strict=True):
        for (_, a), (_, b) in zip(
            point.predicted.items(), surrogate.predict(record.paper, WORKLOAD).items(), strict=True
        ):
            assert a == pytest.approx(b, rel=1e-12)
        expected = surrogate.alpha.latency_ms * point.raw.latency_ms + surrogate.beta.latency_ms
        assert point.predicted.latency_ms == pytest.approx(expected, rel=1e-9)
    assert all(value > 0 for _, value in surrogate.alpha.items())


def test_zero_shot_predicts_within_a_factor_and_has_no_points(
    trained: MetaTrained, fake_device: Callable[[str], Device]
) -> None:
    phone = fake_device("phone")
    surrogate = trained.zero_shot("roofline", phone.spec)
    assert surrogate.points == ()
    assert surrogate.alpha.energy_j == 1.0
    counts = Counts.dense(MINILM)
    predicted, truth = surrogate.bind(MINILM, WORKLOAD)(counts), phone.truth(MINILM, counts, WORKLOAD)
    assert 1 / 4 < float(predicted.latency_ms / truth.latency_ms) < 4
    assert 1 / 4 < float(predicted.energy_j / truth.energy_j) < 4
    blind = trained.zero_shot("reference").bind(MINILM, WORKLOAD)(counts)
    assert all(np.isfinite(value) and value > 0 for _, value in blind.items())


def test_fit_refuses_fewer_than_two_records(trained: MetaTrained, five: list[ProfileRecord]) -> None:
    with pytest.raises(CalibrationError, match="1 calibration record"):
        trained.fit("roofline", five[:1])
    with pytest.raises(CalibrationError, match="no records"):
        trained.fit("roofline", [])


def test_fit_leaves_invalid_records_out_and_says_so(
    trained: MetaTrained, five: list[ProfileRecord], caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = [
        dataclasses.replace(five[0], is_valid=False, cost=dataclasses.replace(five[0].cost, energy_j=1e6)),
        *five[1:],
    ]
    assert trained.fit("roofline", spoilt).points == trained.fit("roofline", five[1:]).points
    assert "1 of 5 calibration records are invalid" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_fit_refuses_a_metric_that_was_never_measured(
    trained: MetaTrained, five: list[ProfileRecord], kind: str
) -> None:
    without = [dataclasses.replace(r, cost=dataclasses.replace(r.cost, peak_power_w=None)) for r in five]
    with pytest.raises(CalibrationError, match="power was never measured"):
        trained.fit(kind, without)


@pytest.mark.parametrize("value", [float("nan"), -0.1])
def test_fit_refuses_an_impossible_cost(trained: MetaTrained, five: list[ProfileRecord], value: float) -> None:
    bad = [dataclasses.replace(five[0], cost=dataclasses.replace(five[0].cost, energy_j=value)), *five[1:]]
    with pytest.raises(CalibrationError, match="energy_j"):
        trained.fit("roofline", bad)


def test_fit_accepts_a_metric_missing_in_some_records(
    trained: MetaTrained, five: list[ProfileRecord], surrogate: Surrogate
) -> None:
    some = [dataclasses.replace(five[0], cost=dataclasses.replace(five[0].cost, energy_j=None)), *five[1:]]
    partial = trained.fit(surrogate.kind, some)
    assert partial.points[0].measured.energy_j is None
    assert partial.points[0].predicted.energy_j == pytest.approx(surrogate.points[0].predicted.energy_j, rel=0.6)


def test_fit_refuses_a_device_of_the_pool(
    trained: MetaTrained, pool_records: list[ProfileRecord], fake_device: Callable[[str], Device]
) -> None:
    leaked = [r for r in pool_records if r.device == "pi"][:5]
    with pytest.raises(CalibrationError, match="pi is in the pool"):
        trained.fit("roofline", leaked)
    with pytest.raises(CalibrationError, match="pi is in the pool"):
        trained.zero_shot("roofline", fake_device("pi").spec)


def test_fit_refuses_records_of_several_devices(trained: MetaTrained, five: list[ProfileRecord]) -> None:
    with pytest.raises(CalibrationError, match="2 devices"):
        trained.fit("roofline", [*five, dataclasses.replace(five[0], device="other")])


def test_fit_names_the_nearest_kind(trained: MetaTrained, five: list[ProfileRecord]) -> None:
    with pytest.raises(UnknownNameError, match="roofline"):
        trained.fit("rooflin", five)


def test_training_refuses_records_of_the_target(
    pool_records: list[ProfileRecord], short_training: MetaTraining
) -> None:
    with pytest.raises(InvalidRecordError, match="192 records of pi, which is the unseen target"):
        train(pool_records, seed=0, target="pi", training=short_training)


def test_training_refuses_a_pool_without_a_metric(
    pool_records: list[ProfileRecord], short_training: MetaTraining
) -> None:
    without = [dataclasses.replace(r, cost=dataclasses.replace(r.cost, energy_j=None)) for r in pool_records[:99]]
    with pytest.raises(InvalidRecordError, match="energy_j"):
        train(without, seed=0, training=short_training)


def test_training_repeats_bit_for_bit(
    trained: MetaTrained,
    pool_records: list[ProfileRecord],
    pool_devices: Sequence[Device],
    short_training: MetaTraining,
) -> None:
    specs = {d.spec.device_id: d.spec for d in pool_devices}
    again = train(pool_records, seed=0, specs=specs, networks=1, training=short_training, draws=8)
    assert again.errors == trained.errors
    for name, kind in trained.kinds.items():
        assert all(torch.equal(t, again.kinds[name].tensors()[key]) for key, t in kind.tensors().items())
