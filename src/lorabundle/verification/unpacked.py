"""Where verification works: the unpacked submission, the folders in which stages run again, and the names of the run's files."""

import os
from dataclasses import dataclass
from pathlib import Path

from lorabundle.core import config
from lorabundle.core.fingerprint import LISTING
from lorabundle.submission.contents import OPTIONAL, RUN_FILES

FOLDER = Path("outputs/.verify")  # a run's name cannot begin with a dot
SHIPPED = FOLDER / "shipped"
RERUN = {level: FOLDER / level for level in ("eval", "full")}  # where the stages run again

ADAPTER = "adapter/adapter_model.safetensors"
CARD = "adapter/README.md"
SETTINGS = "adapter/adapter_config.json"
# The files that a run's folder can have besides records and logs. A record could name any file, and people load this folder
KNOWN_FILES = {*RUN_FILES, *OPTIONAL, ADAPTER, CARD, SETTINGS, *(f"adapter/{name}" for name in config.TOKENIZER_FILES)}

MAX_NAME, MAX_PATH = 255, 1024  # bytes; Linux's limits are 255 and 4096


@dataclass(frozen=True)
class Submission:
    """An unpacked submission."""

    folder: Path
    run: str

    @property
    def run_dir(self) -> Path:
        """The run's files."""
        return self.folder / "outputs" / self.run

    @property
    def listing(self) -> Path:
        """The run's `RESULTS.sha256`."""
        return self.run_dir / LISTING

    def paths(self) -> list[str]:
        """Every file, by its path below the folder, sorted."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())


def is_plain(path: str) -> bool:
    """Whether a path that an archive names stays below the folder that it is joined to, and can be the path of a file."""
    if not path.isprintable() or Path(path).is_absolute():
        return False
    parts = Path(path).parts
    return (
        ".." not in parts and len(os.fsencode(path)) <= MAX_PATH and all(len(os.fsencode(p)) <= MAX_NAME for p in parts)
    )
