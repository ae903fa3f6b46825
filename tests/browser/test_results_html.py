"""results.html in headless Chromium: it asks the network for nothing, fits a phone, and shows the table's numbers."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from lorabundle import report
from tests.fake_run import Document, metrics, run_files, write_run

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # CI is root in a container; the page is our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",  # the browser's own updates and reports
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing leaves the machine, whatever a page asks for
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
]
PHONE = 360  # pixels
# Shows the report in a frame of a phone's width (a window is never narrower than 500 pixels), measures it, uses the filter, and
# puts what it found into the page's title
PROBE = """<!DOCTYPE html><title></title><body style="margin: 0">
<iframe src="results.html" style="width: 360px; height: 4000px; border: 0"></iframe>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const shown = () => [...page.querySelectorAll(".sample")].filter((s) => s.offsetHeight > 0).map((s) => s.dataset.picked);
  const choose = (name, value) => {
    const select = page.querySelector(`select[name=${name}]`);
    select.value = value;
    select.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const seen = { width: page.documentElement.clientWidth, needed: page.documentElement.scrollWidth, all: shown() };
  seen.wide = [...page.querySelectorAll(".table")].filter((box) => box.scrollWidth > box.clientWidth).length;
  choose("picked", "largest loss");
  seen.loss = shown();
  seen.count = page.querySelector("output").textContent;
  choose("picked", "");
  choose("kind", "word");
  seen.word = shown();
  document.title = JSON.stringify(seen);
};
</script>"""


@pytest.fixture(scope="session")
def chromium():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.exit("there is no Chromium on this machine; on Debian: apt-get install chromium", returncode=2)
    return found


@pytest.fixture
def open_page(chromium, tmp_path):
    """Open a file, with more flags if given; return what the browser prints."""

    def run(page: Path, *flags: str) -> str:
        command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return run


@pytest.fixture
def page(smoke):
    write_run(smoke, run_files())
    report.run(smoke)
    return Path("reports/results.html")


def requested(open_page, page: Path) -> set[str]:
    """Every network address that a page asked for, from the browser's net log. (Files have no entry in it.)

    The initiator of the browser's own requests, which no flag stops completely, is "not an origin".
    """
    log = page.with_name("netlog.json")
    open_page(page, f"--log-net-log={log.resolve()}", "--net-log-capture-mode=Everything", "--dump-dom")
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}


def test_nothing_is_requested(open_page, page):
    assert requested(open_page, page) == set()


@pytest.mark.parametrize(
    "element", ['<img src="http://example.invalid/a.png">', '<script src="https://example.invalid/a.js"></script>']
)
def test_a_page_that_loads_something_would_be_caught(open_page, page, element):
    leaky = page.with_name("leaky.html")
    leaky.write_text(f"<!DOCTYPE html><title>t</title>{element}")
    assert requested(open_page, leaky) == {re.search(r'"(http[^"]+)', element)[1]}


def test_policy_stops_what_an_injected_element_asks_for(open_page, page):
    spoilt = page.with_name("spoilt.html")
    evil = '<img src="http://example.invalid/a.png"><script>document.title = "run"</script>'
    spoilt.write_text(page.read_text().replace("<main>", f"<main>{evil}"))
    assert requested(open_page, spoilt) == set()
    assert "<title>Results of run smoke</title>" in open_page(spoilt, "--dump-dom")


def test_table_is_in_the_document(open_page, page):
    seen = Document(open_page(page, "--dump-dom"))
    written = Document(page.read_text())
    assert seen.tables == written.tables
    for row, model in zip(seen.tables[0][-2:], metrics()["models"].values(), strict=True):
        assert row[1:4] == [f"{model['loss']:.4f}", f"{model['perplexity']:.2f}", f"{model['token_accuracy']:.1%}"]
    assert seen.texts["pre"] == [text.removeprefix("\n") for text in written.texts["pre"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_screenshot_is_not_blank(open_page, page, width, scheme):
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<!DOCTYPE html><meta name="color-scheme" content="{scheme}"><body style="margin: 0">'
        f'<iframe src="results.html" style="width: {width}px; height: 2000px; border: 0"></iframe>'
    )
    picture = page.with_name("screenshot.png")
    flags = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    open_page(frame, f"--window-size={max(width, 500)},2200", f"--screenshot={picture.resolve()}", *flags)
    image = Image.open(picture).convert("L").crop((0, 0, width, 2000))
    shares = [count / (width * 2000) for count in image.histogram()]
    paper = max(range(256), key=shares.__getitem__)
    assert (paper > 250) if scheme == "light" else (paper < 40)
    assert 0.5 < shares[paper] < 0.98  # the rest is ink
    ink = sum(share for level, share in enumerate(shares) if abs(level - paper) > 120)
    assert ink > 0.005


def test_it_fits_a_phone_and_the_filter_filters(open_page, page):
    probe = page.with_name("probe.html")
    probe.write_text(PROBE)
    seen = json.loads(Document(open_page(probe, "--allow-file-access-from-files", "--dump-dom")).texts["title"][0])
    assert seen["needed"] == seen["width"] == PHONE
    assert seen["wide"] > 0  # wide tables scroll in a box of their own
    assert seen["all"] == ["first", "largest gain", "largest loss"]
    assert seen["loss"] == ["largest loss"]
    assert seen["count"] == "1 of 3 shown"
    assert seen["word"] == ["first", "largest gain"]


def test_everything_is_shown_without_scripts(open_page, page):
    """A policy without the script's hash has the effect of switching scripts off."""
    mute = page.with_name("results-mute.html")
    mute.write_text(re.sub(r"sha256-[^&]+(?=&#39;; base-uri)", "none", page.read_text()))
    seen = Document(open_page(mute, "--dump-dom"))
    assert seen.texts["output"] == [""]
    assert "hidden" in next(attrs for tag, attrs in seen.elements if tag == "form")
    assert not any("hidden" in attrs for tag, attrs in seen.elements if tag == "article")


def test_it_prints(open_page, page):
    pdf = page.with_name("results.pdf")
    open_page(page, f"--print-to-pdf={pdf.resolve()}")
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) >= 3
