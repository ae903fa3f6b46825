"""`LICENSES.md`: which licences the parts of a submission have, as the parts themselves state them.

Python packages state theirs in their metadata (see `core/package_licence`). A part that states none is listed as unknown.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.license import License

from lorabundle.core.files import require
from lorabundle.core.locks import PIN, read_lock
from lorabundle.reporting.render import fill
from lorabundle.submission.finished_run import FinishedRun

NAME = "LICENSES.md"
TEMPLATE = Path(__file__).parent / "templates" / f"{NAME}.jinja"
UNKNOWN = "unknown: none stated"
# What pip-compile notes below a pin: `# via name`, or one name a line
VIA = re.compile(r"^    #(?: via|  ) +(\S+)", re.M)
ASKED = "-r"  # `-r requirements.in` or `-r openmp.in`


@dataclass(frozen=True)
class Package:
    """A package of the run-time lock."""

    name: str
    version: str
    sha256: set[str]  # one for each file that may be installed
    needed_by: list[str]  # other packages, and ASKED if docker/*.in names it
    licences: list[str]

    @property
    def licence(self) -> str:
        """The licences as one text."""
        return ", ".join(self.licences) or UNKNOWN


def locked_packages(lock: Path, stated: dict[str, list[str]]) -> list[Package]:
    """The packages of a lock, by name.

    Args:
        lock: of the machine that trained, or of its OpenMP runtime.
        stated: the licences that the packages there state (`environment.json`), which can differ from those installed here.
    """
    needed_by = _needed_by(require(lock, "Restore it with git.").read_text(encoding="utf-8"))
    return [
        Package(name, version, hashes, needed_by[name], stated.get(name, []))
        for name, (version, hashes) in sorted(read_lock(lock).items())
    ]


def _needed_by(lock: str) -> dict[str, list[str]]:
    pins = list(PIN.finditer(lock))
    ends = [pin.start() for pin in pins[1:]] + [len(lock)]
    return {pin["name"]: VIA.findall(lock, pin.end(), end) for pin, end in zip(pins, ends, strict=True)}


def parse(text: str) -> License:
    """A stated licence in CycloneDX's form: an SPDX id or expression if it is one, else a name."""
    return LicenseFactory().make_from_string(text)


def data_licences(run: FinishedRun) -> dict[str, str]:
    """The licences that each dataset, or each package that data was made from, states; "" if it states none."""
    data, stated_by = run.config.data, run.manifest.part("licences")
    packages = [name for name in stated_by if name != run.config.model.path]
    return {name: stated_by.get(name, "") for name in data.packages or packages or [data.source_name]}


def document(run: FinishedRun, packages: list[Package]) -> str:
    """`LICENSES.md`: the licences of code, model, data and packages."""
    return fill(
        TEMPLATE,
        run=run.config.run,
        model=run.provenance.text("name"),
        model_source=f"{run.config.model.source} {run.config.model.path}",
        model_licence=run.model_licence or UNKNOWN,
        data={name: licence or UNKNOWN for name, licence in data_licences(run).items()},
        packages=packages,
        lock=run.runtime_lock,
    )
