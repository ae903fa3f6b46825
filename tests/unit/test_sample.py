"""What is shown: the first examples, the largest gains and the largest losses."""

from lorabundle.evaluation.samples import loss_change, pick


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
