"""A dataset and where it is from; `tests/integration/data_cases` has the many kinds of files."""

import json

from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine
from lorabundle.data.sources import read_source
from tests.unit.data.test_splits import settings


def test_what_was_read_and_what_was_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "Q", "completion": "A", "url": "u"}, {"prompt": "R", "completion": "B", "url": None}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    source = read_source(settings(), Quarantine(tmp_path / "q.jsonl", "stop"), notes)
    assert source.format == {
        "file": "jsonl",
        "shape": "prompt/completion",
        "columns": {"prompt": "prompt", "completion": "completion"},
        "files": ["x.jsonl: one JSON value a line, UTF-8"],
    }
    assert [record["id"] for _, record in source.records] == ["x.jsonl:1", "x.jsonl:2"]
    assert notes.listed() == [{"note": "column url not used", "rows": 1}]
    assert (source.detection.rows, source.detection.fitting) == (2, 2)
