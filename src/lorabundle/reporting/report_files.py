"""The content of the report's files. It depends only on the run's files, and nothing is written.

`report` writes these files, and `verify` compares them with those in an archive.
"""

from dataclasses import replace

from lorabundle.core.config import Config
from lorabundle.reporting import render
from lorabundle.reporting.figures import FIGURES, draw
from lorabundle.reporting.inline_svg import inline_svg
from lorabundle.reporting.page import Section
from lorabundle.reporting.results import results_page
from lorabundle.reporting.run_files import Results
from lorabundle.reporting.settings_and_machine import this_run


def upper_part(run_config: Config, results: Results) -> str:
    """`results.md` without its last section: the part that two equal runs have in common."""
    return render.markdown(results_page(run_config, results))


def report_files(run_config: Config, results: Results, fingerprint: str) -> dict[str, bytes]:
    """Content of each file of the report, by path below `reports/`.

    Args:
        run_config: of the run.
        results: its files.
        fingerprint: of its results (see `core.fingerprint`).
    """
    page = results_page(run_config, results)
    last = Section("This run", this_run(results.environment, results.records, fingerprint))
    page = replace(page, sections=[*page.sections, last])
    drawings = {figure.name: draw(figure, results) for figure in FIGURES}
    inline = {name: inline_svg(drawing["svg"], name) for name, drawing in drawings.items()}
    files = {"results.md": render.markdown(page).encode(), "results.html": render.html(page, inline).encode()}
    for name, drawing in drawings.items():
        files |= {f"figures/{name}.{extension}": content for extension, content in drawing.items()}
    return files
