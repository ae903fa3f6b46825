"""What was changed, not used or left out while rows were read, counted, so that nothing is lost without a word."""

from collections import Counter


class Notes:
    """Counts of what happened to rows that could be used, and of rows that were left out because the data says so.

    Attributes:
        counts: {what happened: number of rows or turns}.
        left_out: {cause: number of rows}, for the manifest's `dropped`.
    """

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, note: str, rows: int = 1) -> None:
        """Count one more, or several."""
        self.counts[note] += rows

    def listed(self) -> list[dict]:
        """[{"note", "rows"}], the most frequent first, as the manifest has them."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"note": note, "rows": rows} for note, rows in ranked]
