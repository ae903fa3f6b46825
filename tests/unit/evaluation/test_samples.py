"""The picks: the first examples, the largest gains and the largest losses."""

from lorabundle.evaluation.samples import loss_change, pick, samples


def example(name: str, change: float, tokens: int = 2) -> dict:
    return {"id": name, "tokens": tokens, "base": {"nats": 10.0}, "finetuned": {"nats": 10.0 + change * tokens}}


EXAMPLES = [example("a", 0.5), example("b", -1.0), example("c", -3.0), example("d", 0.0), example("e", 2.0, tokens=7)]


def test_loss_change_is_per_token():
    assert loss_change(example("a", 0.25, tokens=8)) == 0.25


def test_picks():
    picked = [(why, row["id"]) for why, row in pick(EXAMPLES, 2)]
    assert picked == [
        ("first", "a"),
        ("first", "b"),
        ("largest gain", "c"),
        ("largest gain", "b"),
        ("largest loss", "e"),
        ("largest loss", "a"),
    ]


def test_what_did_not_rise_is_no_loss():
    picked = pick([example("b", -1.0), example("d", 0.0)], 8)
    assert [(why, row["id"]) for why, row in picked] == [("first", "b"), ("first", "d"), ("largest gain", "b")]


def test_a_row_has_what_the_report_shows():
    answers = {
        "base": {"nats": 4.0, "text": "B", "stopped": False},
        "finetuned": {"nats": 2.0, "text": "F", "stopped": True},
    }
    row = {"id": "a", "kind": "k", "group": "g", "prompt": ["p"], "reference": "R", "tokens": 2, **answers}
    first, gain = samples([row], 1)
    assert first == {
        "picked": "first",
        "id": "a",
        "kind": "k",
        "prompt": ["p"],
        "reference": "R",
        "loss_change": -1.0,
        "base": "B",
        "base_stopped": False,
        "finetuned": "F",
        "finetuned_stopped": True,
    }
    assert gain == first | {"picked": "largest gain"}
