"""The package's layout: imports point downward only, no module is long, and docs/design.md shows the tree as it is."""

import ast
import graphlib
from pathlib import Path

from support.paths import ROOT

PACKAGE = ROOT / "workflow" / "mousefacelift"
# From the top down: a package may import itself and those after it.
PACKAGES = (
    "cli", "plan", "stages", "evaluation", "training", "comparison", "shards", "recordings", "rigs", "models", "artifacts",
    "geometry", "gpu", "config", "base",
)  # fmt: skip
LONGEST = 450  # lines


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below mousefacelift."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's own modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name.removeprefix("mousefacelift.") in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("mousefacelift.") for name in found if name.startswith("mousefacelift.")}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, known) for name, path in known.items()}


def test_every_package_has_its_place():
    assert {name.partition(".")[0] for name in modules()} <= set(PACKAGES)


def test_imports_point_downward():
    upward = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets
        if PACKAGES.index(target.partition(".")[0]) < PACKAGES.index(name.partition(".")[0])
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    list(graphlib.TopologicalSorter(graph()).static_order())  # raises CycleError, which names the modules


def test_no_module_is_long():
    long = {name: lines for name, path in modules().items() if (lines := len(path.read_text().splitlines())) > LONGEST}
    assert not long
