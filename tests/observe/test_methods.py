"""Calibration methods: laws that hold for any data, and optima against slow definitions."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qir import Pipeline
from qir.errors import ParseError, PassError
from qir.observe.histograms import Histogram, observe
from qir.observe.methods import METHODS, Entropy, MeanSquaredError, MinMax, Octav, Percentile
from qir.observe.methods.histogram_method import HistogramMethod
from qir.observe.statistics import TensorStatistics

Array = NDArray[np.float32]
Range = tuple[float, float]

values = st.floats(-1000, 1000, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=values)
symmetries = st.booleans()
levels = st.sampled_from([3, 4, 16, 255, 256, 65536])
percentiles = st.sampled_from([1, 50.0, 90, 99.9, 99.99, 100])
solvers = st.one_of(
    st.just(MinMax()),
    st.just(Octav()),
    percentiles.map(Percentile),
    st.sampled_from([0.0, 90]).map(Entropy),
    st.sampled_from([0.0, 90]).map(MeanSquaredError),
)


def sample(name: str, count: int = 20_000) -> Array:
    random = np.random.default_rng(7)
    normal = random.standard_normal(count)
    data = {
        "normal": normal,
        "laplace": random.laplace(size=count),
        "student": random.standard_t(3, size=count),
        "skewed": normal + 2,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(normal * 3, 0, 6),
        "silu": normal / (1 + np.exp(-normal)),
        "negative": -random.lognormal(size=count),
        "outlier": np.append(normal, 50),
    }
    return np.asarray(data[name], np.float32)


NAMES = ["normal", "laplace", "student", "skewed", "relu", "relu6", "silu", "negative", "outlier"]


@given(arrays, solvers, levels, symmetries)
def test_a_range_holds_zero_and_reaches_no_further_than_the_values(
    array: Array, method: HistogramMethod, levels: int, symmetric: bool
) -> None:
    statistic = observe(array)
    low, high = method.solve(statistic, levels, symmetric=symmetric)
    if symmetric:
        assert 0 <= high <= np.abs(array).max()
        assert low == -high
    else:
        assert min(array.min(), 0) <= low <= 0 <= high <= max(array.max(), 0)
    assert (low < high) == bool(array.any())
    assert np.array([low, high], np.float32).tolist() == [low, high]

    seen = method.solve(statistic, levels, symmetric=symmetric, include_zero=False)
    low, high = max(low, array.min()), min(high, array.max())
    if low > high:  # All values lie beyond the end: the nearest of them is left.
        low = high = array.min() if array.min() > 0 else array.max()
    assert seen == (low, high)


@given(arrays, solvers, levels, symmetries, st.integers(-40, 40))
def test_scaling_by_a_power_of_two_scales_the_range_exactly(
    array: Array, method: HistogramMethod, levels: int, symmetric: bool, exponent: int
) -> None:
    assume(not array.any() or np.abs(array[array != 0]).min() > 2.0**-40)
    low, high = method.solve(observe(array), levels, symmetric=symmetric)
    scaled = method.solve(observe(np.ldexp(array, exponent)), levels, symmetric=symmetric)
    assert scaled == (low * 2.0**exponent, high * 2.0**exponent)


@given(arrays, solvers, levels)
def test_negated_values_have_the_negated_symmetric_range(
    array: Array, method: HistogramMethod, levels: int
) -> None:
    assume(array.min() < 0 < array.max())
    there, back = (observe(each) for each in (array, -array))
    expected = method.solve(there, levels, symmetric=True)
    assert method.solve(back, levels, symmetric=True) == expected


@pytest.mark.parametrize(
    "method", [Entropy(), MeanSquaredError(), Octav()], ids=["entropy", "mse", "octav"]
)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_do_not_move_the_range(name: str, symmetric: bool, method: HistogramMethod) -> None:
    array = sample(name)
    more = np.append(array, np.zeros(10 * len(array), np.float32))
    ranges = [method.solve(observe(each), symmetric=symmetric) for each in (array, more)]
    assert ranges[0] == ranges[1]


@given(arrays, percentiles)
def test_a_percentile_is_within_a_bin_of_the_values(array: Array, percentile: float) -> None:
    statistic = observe(array)
    method = Percentile(percentile)

    def check(got: float, exact: float) -> None:
        # Both lie in one bin, and the range takes the whole of it.
        assert max(exact, 0) <= got <= max(exact, 0) + statistic.width

    magnitudes = np.sort(np.abs(array).astype(np.float64))
    spare = int((1 - percentile / 100) * len(array) + 1e-9)
    check(method.solve(statistic, symmetric=True)[1], magnitudes[-1 - spare])

    ordered = np.sort(array.astype(np.float64))
    two_sided = ordered[0] < 0 < ordered[-1]
    spare = int((1 - percentile / 100) * len(array) / (2 if two_sided else 1) + 1e-9)
    low, high = method.solve(statistic)
    check(-low, -ordered[spare])
    check(high, ordered[-1 - spare])


@given(arrays, percentiles, symmetries, st.sampled_from([Entropy, MeanSquaredError]))
def test_a_search_keeps_the_percentile_it_is_told_to(
    array: Array, percentile: float, symmetric: bool, kind: type[Entropy | MeanSquaredError]
) -> None:
    statistic = observe(array)
    least = Percentile(percentile).solve(statistic, 16, symmetric=symmetric)
    low, high = kind(percentile).solve(statistic, 16, symmetric=symmetric)
    assert low <= least[0]
    assert least[1] <= high


def grid(bounds: Range, levels: int, symmetric: bool) -> tuple[float, float, float]:
    low, high = bounds
    steps = (levels - 1) // 2 * 2 if symmetric else levels - 1
    step = (high - low) / steps
    lowest = float(np.rint(low / step))
    return step, lowest, lowest + steps


def ranges(array: Array, symmetric: bool) -> Iterator[Range]:
    shares = np.geomspace(0.01, 1, 30)
    if symmetric:
        return ((-m, m) for m in np.abs(array).max() * np.geomspace(0.002, 1, 120))
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
    pairs = product(low * shares if low else [0.0], high * shares if high else [0.0])
    return ((float(low), float(high)) for low, high in pairs)


def squared_error(array: Array, bounds: Range, levels: int, symmetric: bool) -> Range:
    """The mean on the raw values, and how far from it that of their histogram can be, in widths.

    The distance d to the nearest code changes no faster than the value, and a value is known to
    within a bin of width w: its squared error to within w (2 d + w).
    """
    step, lowest, highest = grid(bounds, levels, symmetric)
    raw = array.astype(np.float64)
    distance = np.abs(raw - np.clip(np.rint(raw / step), lowest, highest) * step)
    width = observe(array).width
    return float((distance**2).mean()), float(width * (2 * distance.mean() + width))


@given(arrays, levels, symmetries, st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_the_expected_squared_error_is_that_of_the_values_to_within_a_bin(
    array: Array, levels: int, symmetric: bool, shares: Range
) -> None:
    statistic = observe(array)
    low, high = MinMax().solve(statistic, symmetric=symmetric)
    bounds = (low * shares[symmetric], high * shares[1])
    assume(bounds[1] - bounds[0] > statistic.width)
    expected, doubt = squared_error(array, bounds, levels, symmetric)
    cost = MeanSquaredError().cost(statistic, bounds, levels, symmetric=symmetric)
    assert abs(cost - expected) <= doubt


@pytest.mark.parametrize(
    ("levels", "symmetric"), [(256, True), (256, False), (16, False), (5, True), (4, False)]
)
@pytest.mark.parametrize("name", NAMES)
def test_mse_has_the_least_error_on_the_raw_values(name: str, levels: int, symmetric: bool) -> None:
    array = sample(name, 4000)
    found = MeanSquaredError().solve(observe(array), levels, symmetric=symmetric)
    error, doubt = squared_error(array, found, levels, symmetric)
    others = (squared_error(array, each, levels, symmetric) for each in ranges(array, symmetric))
    # The search takes steps of a percent.
    assert error - doubt <= 1.01 * min(map(sum, others))


def divergence(array: Array, statistic: Histogram, step: int, codes: int, lowest: int) -> float:
    """What `Entropy` minimises, by its definition, where cells begin and end at bounds of bins."""
    magnitude = np.trunc(np.abs(array) / np.float32(statistic.width)).astype(int)
    index = np.where(array < 0, -1 - magnitude, magnitude)
    exact = array % np.float32(statistic.width) == 0
    exact &= (array == array.max()) & (array > 0) | (array == array.min()) & (array < 0)
    counts = np.bincount(index[~exact & (array != 0)] - index.min(), minlength=np.ptp(index) + 1)
    cells = (np.arange(index.min(), index.max() + 1) + step / 2) // step
    total = 0.0
    for code in range(lowest, lowest + codes):
        held = counts[(cells == code) & (counts > 0)]
        total += (held * np.log(held / held.mean())).sum() if held.size else 0
        level = held.mean() if held.size else 1
        bound = (code + 0.5 if code > 0 else code - 0.5) * step * statistic.width
        if (code == lowest + codes - 1 and code > 0) or code == lowest < 0:
            beyond = cells > code if code > 0 else cells < code
            clipped = counts[beyond].sum()
            clipped += (exact & (array > bound if code > 0 else array < bound)).sum()
            total += (level + clipped) * np.log((level + clipped) / level) - clipped
    return total / len(array)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_divergence_is_that_of_the_counts(name: str, symmetric: bool) -> None:
    array = sample(name)
    statistic = observe(array, bins=1024)
    array = np.abs(array) if symmetric else array
    below, above = (max(float(each), 0) for each in (-array.min(), array.max()))
    for step in (2, 6, 20, 100, 2000):
        unit = step * statistic.width
        for share in (0.2, 0.6, 1.0):
            last = np.ceil(share * above / unit)
            lowest = -np.ceil(share * below / unit)
            codes = int(last - lowest) + 1
            if codes < 3:
                continue
            cost = Entropy().cost(
                statistic,
                (lowest * unit, last * unit),
                2 * codes - 1 if symmetric else codes,
                symmetric=symmetric,
            )
            expected = divergence(array, statistic, step, codes, int(lowest))
            assert cost == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("levels", "symmetric"), [(64, True), (64, False), (16, False), (9, True)])
@pytest.mark.parametrize("name", NAMES)
def test_entropy_has_the_least_divergence(name: str, levels: int, symmetric: bool) -> None:
    array = sample(name)
    statistic = observe(array)
    method = Entropy()

    def cost(bounds: Range) -> float:
        return method.cost(statistic, bounds, levels, symmetric=symmetric)

    coarse = [
        bounds
        for bounds in ranges(array, symmetric)
        if grid(bounds, levels, symmetric)[0] >= statistic.width
    ]
    found = cost(method.solve(statistic, levels, symmetric=symmetric))
    # Where bins hold few values the divergence is rough, and the search is no exhaustive one.
    assert found <= 1.1 * min(map(cost, coarse))


def test_entropy_keeps_what_it_cannot_judge() -> None:
    statistic = observe(sample("student"))
    assert Entropy().solve(statistic, 65536) == MinMax().solve(statistic)
    low, high = Entropy().solve(statistic, 1024)
    assert high - low >= 1023 * statistic.width


@pytest.mark.parametrize("method", [Entropy(), MeanSquaredError()], ids=["entropy", "mse"])
def test_a_search_clips_tails_but_not_edges(method: HistogramMethod) -> None:
    uniform = np.linspace(-1, 1, 20_001, dtype=np.float32)
    assert method.solve(observe(uniform)) == (-1, 1)
    assert method.solve(observe(sample("relu6"))) == (0, 6)
    assert method.solve(observe(np.full(9, 5.25, np.float32))) == (0, 5.25)
    tails = sample("outlier", 200_000)
    assert method.solve(observe(tails), 16)[1] < 4


@given(arrays, solvers, symmetries)
def test_coarse_statistics_are_solved_too(
    array: Array, method: HistogramMethod, symmetric: bool
) -> None:
    low, high = method.solve(observe(array, bins=16), symmetric=symmetric)
    assert (low < high) == bool(array.any())


def octav_loss(array: Array, low: float, high: float, steps: int) -> float:
    """What OCTAV minimises: step**2 / 12 of what is inside and not 0, squared distances outside."""
    there = array[array != 0].astype(np.float64)
    inside = np.count_nonzero((there >= low) & (there <= high))
    outside = np.square(there - np.clip(there, low, high)).sum()
    return float(((high - low) / steps) ** 2 / 12 * inside + outside)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("levels", [4, 16, 256])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("silu", "skewed")])
def test_octav_is_where_its_loss_is_least(name: str, levels: int, symmetric: bool) -> None:
    array = sample(name)
    low, high = Octav().solve(observe(array), levels, symmetric=symmetric)
    steps = 2 * ((levels - 1) // 2) if symmetric else levels - 1
    found = octav_loss(array, low, high, steps)
    for below, above in product(np.linspace(0.5, 1.5, 11), repeat=2):
        if not symmetric or below == above:
            there = max(low * below, array.min()) if not symmetric else low * below
            other = octav_loss(array, there, high * above, steps)
            # Values are spread evenly within bins, of which there are 2,048 on a side.
            assert found <= other * (1 + 2.0**-7)


def test_octav_clips_tails_and_keeps_the_bounds_of_what_is_cut_off() -> None:
    assert Octav().solve(observe(np.full(9, 5.25, np.float32))) == (0, 5.25)
    tails = sample("outlier", 200_000)
    assert Octav().solve(observe(tails), 16)[1] < 4


@pytest.mark.parametrize("method", [Octav(), Octav(2), Octav(symmetric=True)], ids=str)
def test_octav_keeps_both_ends_where_values_have_one_magnitude(method: Octav) -> None:
    signs = np.where(np.arange(31) % 3 == 0, -1, 1).astype(np.float32)
    low, high = method.solve(observe(signs), 2**method.bits)
    # At the end the derivative is that of steps alone: it moves in by a few of their squares.
    assert -1 <= low < -0.8
    assert 0.8 < high <= 1


@pytest.mark.parametrize("name", ["octav", "mse", "entropy", "percentile", "minmax"])
@pytest.mark.parametrize("number", [0.77, -0.77, 1e30, -3.0, 0.0])
def test_a_single_number_has_a_range_that_ends_there(name: str, number: float) -> None:
    array = np.full(32, number, np.float32)
    seen = TensorStatistics(histogram=observe(array))
    low, high = METHODS[name]().range(seen)
    assert low <= high
    assert high == pytest.approx(float(array[0]), rel=2.0**-11)


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(PassError, match="calibrate: expected a tensor with values, got none"):
        MinMax().solve(Histogram.empty())
    with pytest.raises(PassError, match="calibrate: expected at least 3 levels, got 2"):
        MinMax().solve(observe(np.ones(1)), 2)
    for bounds in [(0.0, 0.0), (1.0, 2.0)]:
        with pytest.raises(PassError, match="calibrate: expected a range with zero in it, got"):
            Entropy().cost(observe(np.ones(1)), bounds)


@pytest.mark.parametrize("name", METHODS)
def test_methods_print_as_pipelines_have_them(name: str) -> None:
    assert str(METHODS[name]()) == name
    assert str(Percentile(99.9, bins=64)) == "percentile(percentile=99.9, bins=64)"


@pytest.mark.parametrize(
    "methods",
    [(Percentile(90), Percentile(100)), (Entropy(50, bits=4), Entropy(100, bits=4))],
    ids=["percentile", "entropy"],
)
def test_options_reach_the_method(methods: tuple[HistogramMethod, HistogramMethod]) -> None:
    seen = TensorStatistics(histogram=observe(sample("outlier")))
    narrow, wide = (method.range(seen) for method in methods)
    assert narrow[1] < wide[1] == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "entrpy",
            "pipeline: calibrate: method: expected one of entropy, minmax, moving_average, mse, "
            "octav, percentile, got entrpy; did you mean 'entropy'?",
        ),
        (
            "mse(percentil=1)",
            "pipeline: calibrate: expected an option of mse (percentile, bits, symmetric, bins), "
            "got percentil; did you mean 'percentile'?",
        ),
        (
            "minmax(percentile=1)",
            "pipeline: calibrate: expected an option of minmax (it has none), got percentile",
        ),
        (
            "percentile(percentile=0)",
            "pipeline: calibrate: expected percentile in (0, 100], got 0.0",
        ),
        (
            "entropy(percentile=101)",
            "pipeline: calibrate: expected percentile in [0, 100], got 101.0",
        ),
    ],
)
def test_a_wrong_name_or_option_is_told(text: str, message: str) -> None:
    with pytest.raises(ParseError) as error:
        Pipeline.parse(f'calibrate(method="{text}")')
    assert str(error.value).splitlines()[0] == message


def test_options_are_written_beside_the_method_or_behind_it() -> None:
    beside = Pipeline.parse("calibrate(method=percentile, percentile=99, optional=true)")
    behind = Pipeline.parse('calibrate(method="percentile(percentile=99)", optional=true)')
    assert beside == behind == Pipeline.parse(str(beside))
