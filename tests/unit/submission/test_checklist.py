"""The checklist says Yes only where a file of the run shows it."""

import re

import pytest

from lorabundle.core.config_file import load_config
from lorabundle.core.files import write_json
from lorabundle.submission import checklist
from tests.conftest import ROOT
from tests.fake_run import metrics
from tests.fake_submission import default_files, documents, write_packed, write_records

TITLES = [
    "Dependencies",
    "Training code",
    "Evaluation code",
    "Pre-trained models",
    "README with results and commands",
    "Claims",
    "Limitations",
    "Theory",
    "Experimental reproducibility",
    "Open access to data and code",
    "Experimental setting",
    "Statistical significance",
    "Compute resources",
    "Code of ethics",
    "Broader impacts",
    "Safeguards",
    "Licences of existing assets",
    "New assets",
    "Crowdsourcing",
    "Review board",
    "Use of language models",
]


def items(config) -> dict[str, tuple[str, str]]:
    """Each item's answer and reason."""
    text = documents(config)[checklist.NAME]
    found = re.findall(r"^### \d+\. (.+)\n\n[^*\n]+\? \*\*([^*]+)\.\*\* (.+)$", text, re.M)
    assert [title for title, _, _ in found] == TITLES
    return {title: (answer, why) for title, answer, why in found}


def test_default_kind_of_run(packed):
    answers = {title: answer for title, (answer, _) in items(packed).items()}
    others = {
        "Theory": "Not applicable",
        "Crowdsourcing": "Not applicable",
        "Review board": "Not applicable",
        "Code of ethics": "For the author to answer",
        "Broader impacts": "For the author to answer",
        "Safeguards": "No",
    }
    assert answers == dict.fromkeys(TITLES, "Yes") | others


def test_answers_quote_the_run(packed):
    found = items(packed)
    assert "`Some CPU`, 2 threads of 2 cores, 8.0 GB" in found["Compute resources"][1]
    assert "6.0 minutes (training 1.0) and at most 2.00 GB" in found["Compute resources"][1]
    assert "-0.5000 nats a token (95 % interval -0.9000 to -0.1000), and 3 of 4" in found["Claims"][1]
    assert "4 train, 4 val, 4 test examples; LoRA of rank 4" in found["Experimental setting"][1]
    assert "Pairs of equal or similar texts in two different splits: 1 " in found["Experimental setting"][1]
    assert "10,000 resamples" in found["Statistical significance"][1]
    assert "one run with one seed" in found["Statistical significance"][1]
    assert "on the same CPU model with the same number of threads" in found["Experimental reproducibility"][1]
    assert "python -m lorabundle.train --config config/smoke.yaml --set run=smoke" in found["Training code"][1]


def test_ones_own_data_and_model(own_packed):
    """What is not in the archive and cannot be fetched makes an answer No; what nobody recorded is the author's."""
    found = items(own_packed)
    for title in ("Experimental reproducibility", "Open access to data and code"):
        assert found[title][0] == "No"
        assert "`data/mine.jsonl`, `tiny/model.safetensors`" in found[title][1]
    assert found["Pre-trained models"][0] == "No"
    assert found["Licences of existing assets"][0] == "No"
    assert "`data.jsonl`, `tiny`" in found["Licences of existing assets"][1]
    assert found["Crowdsourcing"][0] == found["Review board"][0] == "For the author to answer"


def test_no_interval_no_significance(packed):
    values = metrics()
    values["delta"]["loss"]["ci95"] = []
    write_json(packed.run_dir / "metrics.json", values)
    write_records(packed)
    assert items(packed)["Statistical significance"][0] == "No"


def test_hub_is_for_the_author_to_say_whether_it_is_public(workspace):
    revision = "a" * 40
    config = load_config(
        workspace / "config/smoke.yaml", ["model.source=hub", "model.path=owner/name", f"model.revision={revision}"]
    )
    files = default_files()
    files["provenance.json"]["origin"] = {"repo_id": "owner/name", "revision": revision}
    write_packed(config, files)
    found = items(config)
    assert found["Open access to data and code"][0] == "For the author to answer"
    assert found["Experimental reproducibility"][0] == "Yes"
    assert "`smollm2-135m-phi3`" in found["Licences of existing assets"][1]  # the hub's card is not read


def test_counts_add_up(packed):
    text = documents(packed)[checklist.NAME]
    counts = re.findall(r"(?:Yes|No|Not applicable|For the author to answer): (\d+)", text)
    assert sum(map(int, counts)) == len(TITLES)


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:src|docker)/[\w./]+)`", (ROOT / "src/lorabundle/submission/checklist.py").read_text())
)
def test_files_that_it_names_are_there(path):
    assert (ROOT / path).is_file()
