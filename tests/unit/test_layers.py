"""The package's structure: layers, the flow of commands on top, and one test module for each module."""

import ast
from functools import cache
from pathlib import Path

import pytest

from lorabundle.core.stage import STAGES
from tests.conftest import ROOT

SOURCE = ROOT / "src"
COMMANDS = {*STAGES, "verify", "seeds", "inspect", "resolve_config"}
# Each package imports only from those named here
LAYERS = {
    "core": set(),
    "model": {"core"},
    "compute": {"core", "model"},
    "data": {"core", "model"},
    "training": {"core", "model", "compute"},
    "evaluation": {"core", "model", "compute"},
    "reporting": {"core", "evaluation"},
    "submission": {"core", "evaluation", "reporting"},
    "verification": {"core", "training", "evaluation", "reporting", "submission"},
}


def module_file(module: str) -> Path:
    """The file of lorabundle.<module>; of a package, its `__init__`."""
    path = SOURCE / "lorabundle" / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, by their names below the package ("core.files")."""
    found = set()
    for node in ast.walk(ast.parse(module_file(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lorabundle":
            start = node.module.partition(".")[2]
            for alias in node.names:
                name = f"{start}.{alias.name}".strip(".")
                found.add(name if module_file(name).exists() else start)
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("lorabundle.")}
    return frozenset(found - {""})


@cache
def reached(module: str) -> frozenset[str]:
    """All modules of ours that importing a module runs, itself included."""
    return frozenset({module}).union(*map(reached, imports(module)))


def modules() -> list[str]:
    """Every module of the package, by its name below it."""
    files = (file.relative_to(SOURCE / "lorabundle") for file in (SOURCE / "lorabundle").rglob("*.py"))
    return sorted(file.with_suffix("").as_posix().replace("/", ".") for file in files if file.stem != "__init__")


def test_commands_are_on_top_and_packages_below():
    entries = {path.name for path in (SOURCE / "lorabundle").iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__.py", *LAYERS, *(f"{command}.py" for command in COMMANDS)}


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_from_the_layers_below(package):
    for module in modules():
        if module.startswith(f"{package}."):
            above = {name for name in imports(module) if name.split(".")[0] not in LAYERS[package] | {package}}
            assert not above, f"{module} imports {above}"


def test_layers_have_no_cycle():
    done: set[str] = set()
    for package, below in LAYERS.items():
        assert below <= done
        done.add(package)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_never_import_each_other(command):
    assert not (reached(command) - {command}) & COMMANDS


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_says_in_one_line_which_layer_it_is(package):
    assert len(module_file(package).read_text().splitlines()) == 1


def test_each_module_has_a_test_module():
    tests = {file.relative_to(ROOT / "tests/unit").as_posix() for file in (ROOT / "tests/unit").rglob("test_*.py")}
    missing = []
    for module in modules():
        *folder, name = module.split(".")
        if "/".join([*folder, f"test_{name}.py"]) not in tests:
            missing.append(module)
    assert missing == []


def test_no_module_hides_a_library_of_the_same_name():
    """A top-level evaluate.py once hid the evaluate library: modules are in the package, nothing else is on the path."""
    assert [path.name for path in SOURCE.iterdir() if path.name != "__pycache__"] == ["lorabundle"]
    assert list(ROOT.glob("*.py")) == []
