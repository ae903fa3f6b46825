"""A page's lines and tables as plain text."""

from lorabundle.reporting.page import Line, Table, parts


def plain(line: Line) -> str:
    """A line without its markup."""
    return "".join(part if isinstance(part, str) else part.text for part in parts(line))


def cells(table: Table) -> list[list[str]]:
    """The rows of a table."""
    return [[plain(cell) for cell in row] for row in table.rows]
