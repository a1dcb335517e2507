"""The package on disk: what is installed, which way imports flow, what an import costs."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import networkx as nx
import pytest

from tests.layout import FOLDERS, ROOT, modules, packages

MODULES = modules()
# Lowest first. What a row names, a folder or a module, imports its own row and those above it; a
# module that is named itself does not count to its folder.
LAYERS = [
    {f"qir.{name}" for name in row.split()}
    for row in [
        "errors interop types",
        "numbers report.tables report.progress bench.timing bench.machine",
        "ops",
        "ir",
        "text analysis targets bench.cache",
        "observe",
        "report bench.profile",
        "pipeline metrics",
        "search",
        "passes backends frontends",
        "api bench cli __main__",
    ]
]
LAYERS[-1].add("qir")
RANKS = {name: row for row, names in enumerate(LAYERS) for name in names}
FAMILIES = {"qir.passes", "qir.backends", "qir.frontends"}
# What the folders of a family import of it beside themselves.
ROOMS = {
    "qir.passes.shared": set(),
    **{
        f"qir.passes.{name}": {"shared"}
        for name in ("raising", "float", "ranges", "quantize", "integer")
    },
    "qir.passes.pipelines": set(),
    "qir.backends.reference": set(),
    "qir.backends.native": set(),
    "qir.backends.cpu": {"native"},
    "qir.backends.xla": {"native", "reference"},
    "qir.frontends.shared": set(),
    "qir.frontends.jaxpr": {"shared"},
}
# Where the XLA backend looks for what generates kernels, which it knows by a protocol only.
DOORS = {("qir.backends.xla.kernel_choice", "qir.backends.cpu")}
KNOWS_JAX = (
    "qir.backends.xla",
    "qir.backends.cpu",
    "qir.frontends.jaxpr",
    "qir.api",
    "qir.bench.benchmark",
    "qir.interop.jax_internals",
)
NUMPY_ONLY = {name for name in MODULES if not name.startswith(KNOWS_JAX)}
DRAWS = {"qir.bench.roofline_plot", "qir.report.plots"}
LIGHT = {"lark", "ml_dtypes", "networkx", "numpy", "tqdm"}


def part(module: str) -> str:
    """The row entry that a module belongs to: ``qir.ops`` for ``qir.ops.conv``."""
    while module not in RANKS:
        module = module.rpartition(".")[0]
    return module


def room(module: str) -> str:
    """The family folder that a module lies in: ``qir.passes.float``, or the module itself."""
    return ".".join(module.split(".")[:3])


def imports(module: str, *, typing: bool = True) -> set[str]:
    """Every module that a module names in an import, wherever in the file it stands.

    Args:
        module: The module.
        typing: Whether those count that only type checkers run.
    """
    found = set()
    package = module if module in packages() else module.rpartition(".")[0]
    tree = ast.parse(MODULES[module].read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if not typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else source for name in names}
    return found


GRAPH = {module: imports(module) for module in MODULES}


def test_every_package_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(project["packages"]) == packages()
    assert packages() <= MODULES.keys(), "a folder lacks its __init__.py"
    assert {name: ROOT / folder for name, folder in project["package-dir"].items()} == FOLDERS


def test_every_folder_has_a_layer():
    assert {part(module) for module in MODULES} <= RANKS.keys()


def test_imports_flow_one_way():
    wrong = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        for name in sorted(names & MODULES.keys())
        if RANKS[part(name)] > RANKS[part(module)]
        or (part(module) in FAMILIES and part(name) in FAMILIES - {part(module)})
    ]
    assert wrong == []


def test_inside_a_family_imports_flow_one_way():
    wrong = [
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        if part(module) in FAMILIES and module not in FAMILIES
        for name in sorted(names & MODULES.keys())
        if part(name) == part(module)
        and room(name) not in {room(module), part(module)}
        and room(name).rpartition(".")[2] not in ROOMS[room(module)]
        and (module, room(name)) not in DOORS
    ]
    assert wrong == []


def test_a_pass_imports_no_pass():
    registered = {
        module
        for module, path in MODULES.items()
        if module.startswith("qir.passes.") and re.search(r"^@register$", path.read_text(), re.M)
    }
    wrong = [
        f"{module} imports {name}"
        for module in sorted(registered)
        for name in sorted(GRAPH[module] & registered)
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle():
    edges = [
        (module, name)
        for module in MODULES
        for name in imports(module, typing=False) & MODULES.keys()
    ]
    assert list(nx.simple_cycles(nx.DiGraph(edges))) == []


def test_only_the_api_xla_and_frontends_know_more_than_numpy():
    foreign = {
        module: {name.partition(".")[0] for name in GRAPH[module]}
        - {"qir", *LIGHT, *(["matplotlib"] if module in DRAWS else []), *sys.stdlib_module_names}
        for module in NUMPY_ONLY
    }
    assert {module: names for module, names in foreign.items() if names} == {}


def test_importing_qir_loads_nothing_heavy():
    names = ", ".join(sorted(NUMPY_ONLY - {"qir.__main__"}))
    heavy = "('jax', 'jaxlib', 'jiwer', 'matplotlib', 'pycocotools', 'sklearn')"
    loaded = f"[name for name in sys.modules if name.partition('.')[0] in {heavy}]"
    code = f"import sys, {names}; print({loaded})"
    assert run(sys.executable, "-c", code) == "[]"


def test_a_public_word_has_one_meaning():
    homes: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        for name in defined(ast.parse(path.read_text())):
            homes.setdefault(name, set()).add(module)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def defined(tree: ast.Module) -> set[str]:
    """The public words of a module: its classes, and other names at its top in CamelCase."""
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = getattr(node, "targets", []) or [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if re.fullmatch(r"[A-Z]\w*", name) and not name.isupper()}


def test_what_generated_code_needs_knows_neither_llvm_nor_jax():
    names = ", ".join(sorted(name for name in MODULES if room(name) == "qir.backends.native"))
    loaded = "[name for name in sys.modules if name.partition('.')[0] in ('jax', 'llvmlite')]"
    assert run(sys.executable, "-c", f"import sys, {names}; print({loaded})") == "[]"


def test_no_file_is_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in MODULES.values()
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert long == {}


def test_no_unfinished_words():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    sources = [*MODULES.values(), *(ROOT / "examples").glob("*.py"), ROOT / "README.md"]
    assert [path for path in sources if unfinished.search(path.read_text())] == []


def test_the_source_distribution_has_all_that_tests_need(tmp_path):
    source = copied(tmp_path / "source", "CHANGELOG.md", "MANIFEST.in", "examples", "tests")
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
        member = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert member is not None
        metadata = message_from_bytes(member.read())
    assert wanted - held == set()
    assert metadata["Author"] == "The QIR authors"
    assert "quantization" in metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


@pytest.mark.slow
def test_a_wheel_works_in_the_checkout_and_outside(tmp_path):
    source, site = copied(tmp_path / "source"), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", f"--wheel-dir={tmp_path}", str(source))
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"qir/py.typed", "qir/text/grammar.lark"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "qir",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }

    venv.create(site, with_pip=False, symlinks=True)
    (installed,) = site.glob("lib/python*/site-packages")
    run(*pip, "install", "--no-deps", "--no-index", f"--target={installed}", str(wheel))
    # The dependencies come from here; a path added so does not bring its editable installs along.
    (installed / "dependencies.pth").write_text("\n".join(p for p in sys.path if "-packages" in p))
    code = f"import qir, {', '.join(sorted(packages()))}; print(qir.__file__, qir.passes.__file__)"
    python = str(site / "bin/python")
    inside = [ROOT / "qir/__init__.py", ROOT / "passes/__init__.py"]
    assert run(python, "-c", code, cwd=ROOT).split() == [str(path) for path in inside]
    outside = [installed / "qir/__init__.py", installed / "qir/passes/__init__.py"]
    assert run(python, "-c", code, cwd=tmp_path).split() == [str(path) for path in outside]


def copied(source: Path, *names: str) -> Path:
    """Copies what a build of the package reads, and further files and folders, to a new folder."""
    source.mkdir()
    folders = [folder.name for folder in FOLDERS.values()]
    for name in ["pyproject.toml", "README.md", "LICENSE", *folders, *names]:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    return source


def run(*command: str, cwd: Path = ROOT) -> str:
    """What the command prints; its error output is in the failure where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
