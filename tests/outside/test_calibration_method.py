"""A calibration method from outside: one class with its own option, in every pipeline at once."""

import jax.numpy as jnp
import numpy as np
import pytest

import qir
from tests.registries import restored


class QuantileOfBatches(qir.CalibrationMethod):
    """Quantiles of the extremes of batches: a share lies inside, single odd ones do not count."""

    share: float = 0.9

    def check(self) -> None:
        if not 0 < self.share <= 1:
            raise qir.QirError(f"quantile_of_batches: expected share in (0, 1], got {self.share}")

    def range(self, seen):
        assert seen.extremes is not None
        low = np.quantile(seen.extremes.minimum, 1 - self.share, method="nearest")
        high = np.quantile(seen.extremes.maximum, self.share, method="nearest")
        return float(min(low, high)), float(max(low, high))


@pytest.fixture(scope="module", autouse=True)
def _entered():
    with restored():
        yield qir.calibration_method("quantile_of_batches")(QuantileOfBatches)


WEIGHTS = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
DATA = [np.random.default_rng(seed).normal(size=(32, 16)).astype(np.float32) for seed in range(20)]
DATA[7] = DATA[7] * 100  # an odd batch
GRAPH = qir.from_jax(lambda x: jnp.tanh(x @ WEIGHTS), DATA[0], batch="B")
RECIPE = "fold, scores, calibrate(method=quantile_of_batches, share={}), ranges, quantize, integer"


def error(integer):
    (exact,), (coded,) = qir.evaluate(GRAPH, DATA[0]), qir.evaluate(integer, DATA[0])
    return float(np.square(exact - coded).mean())


def test_the_method_leaves_odd_batches_out():
    robust = qir.quantize(GRAPH, DATA, RECIPE.format(0.9), accuracy_check=False)
    everything = qir.quantize(GRAPH, DATA, RECIPE.format(1.0), accuracy_check=False)
    assert error(robust) < error(everything) / 100


def test_it_is_solved_from_statistics_without_data(tmp_path):
    qir.calibrate(GRAPH, DATA).save(tmp_path / "seen.npz")
    seen = qir.Statistics.load(tmp_path / "seen.npz")
    again = qir.optimize(GRAPH, RECIPE.format(0.9), statistics=seen)
    assert again == qir.quantize(GRAPH, DATA, RECIPE.format(0.9), accuracy_check=False)


def test_its_option_is_checked_where_the_pipeline_is_read():
    with pytest.raises(qir.ParseError, match=r"expected share in \(0, 1\], got 2"):
        qir.Pipeline.parse(RECIPE.format(2))
