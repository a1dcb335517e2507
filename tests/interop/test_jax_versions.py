"""Which versions of jax QIR is for, and the one file that knows what they don't document."""

import re
import subprocess
import sys
import tomllib
import warnings

import jax
import pytest

from qir.errors import QirError
from qir.interop.jax_internals import NEWEST, OLDEST, check_version
from tests.layout import ROOT, modules

HIDDEN = re.compile(
    r"\bjax\._(?!_version__)|\bjax\.(extend|experimental|interpreters|core)\b|\bimport jaxlib\b"
)
MISSING = """
import jax._src.source_info_util as module
del module.user_frames
import qir
try:
    qir.from_jax(lambda x: x, 1.0)
except qir.QirError as error:
    print(error)
"""


@pytest.mark.parametrize("version", ["0.10.0", "0.10.2", "0.11.2", "0.12.0.1", "0.12.3.dev1"])
def test_supported_versions_pass_in_silence(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_version(version)


@pytest.mark.parametrize("version", ["0.9.2", "0.4.38"])
def test_an_older_jax_is_refused(version):
    with pytest.raises(QirError, match=f"expected 0.10 or newer, got {version}; pip install"):
        check_version(version)


@pytest.mark.parametrize("version", ["0.13.0", "1.0.0"])
def test_a_newer_jax_is_warned_of(version):
    with pytest.warns(UserWarning, match=f"expected at most 0.12, got {version}, which QIR was no"):
        check_version(version)


def test_the_requirements_are_the_supported_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = f">={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"
    assert {f"jax{bounds}", f"jaxlib{bounds}"} <= set(project["dependencies"])


def test_one_file_reads_what_jax_does_not_document():
    found = [name for name, path in modules().items() if HIDDEN.search(path.read_text())]
    assert found == ["qir.interop.jax_internals"]


def test_a_missing_name_is_an_error_that_tells_the_versions():
    command = [sys.executable, "-c", MISSING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("jax: cannot import name 'user_frames'"), done.stderr
    assert done.stdout.endswith(f" in jax {jax.__version__}; QIR supports jax 0.10 to 0.12\n")
