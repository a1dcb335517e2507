"""Where each module of the package lies on disk, and a tree of links that type checkers read.

Neither mypy nor pyright sees that ``qir.passes`` lies in ``passes/``: run
``python tests/layout.py`` before them, or any test.
"""

from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "qir": ROOT / "qir",
    "qir.passes": ROOT / "passes",
    "qir.backends": ROOT / "backends",
    "qir.frontends": ROOT / "frontends",
}


def modules() -> dict[str, Path]:
    """The file of every module, by its dotted name; a package is its ``__init__.py``."""
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for package, folder in FOLDERS.items()
        for path in sorted(folder.rglob("*.py"))
    }


def packages() -> set[str]:
    """The dotted names of the folders that hold modules."""
    return {
        name if path.name == "__init__.py" else name.rpartition(".")[0]
        for name, path in modules().items()
    }


def link_tree() -> None:
    """Bring ``.links/qir`` up to date: a link for each entry of qir/ and for each other folder."""
    tree = ROOT / ".links" / "qir"
    tree.mkdir(parents=True, exist_ok=True)
    wanted = {entry.name: entry for entry in FOLDERS["qir"].iterdir() if entry.name[:2] != "__"}
    wanted |= {"__init__.py": FOLDERS["qir"] / "__init__.py"}
    wanted |= {folder.name: folder for name, folder in FOLDERS.items() if name != "qir"}
    for link in tree.iterdir():
        if link.name not in wanted:
            link.unlink(missing_ok=True)
    for name, target in wanted.items():
        with suppress(FileExistsError):  # it is there, or another process has just made it
            (tree / name).symlink_to(Path("../..") / target.relative_to(ROOT))


if __name__ == "__main__":
    link_tree()
