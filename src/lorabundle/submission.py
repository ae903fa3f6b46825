"""What a submission holds of the project itself."""

from pathlib import Path

# The source tree: what someone needs to run it all again. Built folders are left out by name.
SOURCE = (
    "Makefile",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "pyproject.toml",
    "config",
    "docker",
    "src",
    "tests",
    ".ci",
)
BUILT = {"__pycache__", "wheels", ".pytest_cache", ".ruff_cache"}


def source_files(root: Path) -> list[Path]:
    """The files of the source tree at `root`, relative to it, sorted."""
    paths = [root / name for name in SOURCE]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sorted(file.relative_to(root) for file in files if not is_built(file.relative_to(root)))


def is_built(file: Path) -> bool:
    """Whether a file below the source tree was made there and is not part of it."""
    return file.name.startswith(".") or bool(BUILT & set(file.parts)) or file.suffix == ".pyc"
