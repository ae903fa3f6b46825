"""Counts of what was changed or not used."""

from lorabundle.data.notes import Notes


def test_notes_are_listed_from_frequent_to_rare():
    notes = Notes()
    assert notes.listed() == []
    for note in "bab":
        notes.add(note)
    notes.add("c", 2)
    assert notes.listed() == [{"note": "b", "rows": 2}, {"note": "c", "rows": 2}, {"note": "a", "rows": 1}]
