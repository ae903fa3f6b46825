"""CSV: what is between cells, columns without names, rows without content."""

import io
from pathlib import Path

import pytest

from lorabundle.core.errors import ColumnError
from lorabundle.data.csv_rows import csv_rows, find_delimiter

PATH = Path("d.csv")


def read(text: str) -> tuple[str, list]:
    described, _, rows = csv_rows(PATH, io.StringIO(text, newline=""))
    return described, [values for _, values, _ in rows]


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1;2\n", ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),  # decimal commas
        ("a,b\nx;y,z\nx;y,z\n", ","),
        ('a,b\n"x;y;z",1\n"x;y;z",2\n', ","),
        ('a;b\n"1, 2\n3, 4";x\n"5, 6";y\n', ";"),  # a line break within quotes
        ("a\nx\ny\n", ","),
        ("", ","),
        ("a;b\n" + "Well, one, two;x\n" * 3 + "one;y\n", ";"),
    ],
)
def test_the_delimiter_is_the_one_that_gives_rows_of_equal_length(text, delimiter):
    assert find_delimiter(io.StringIO(text, newline="").readlines()) == delimiter


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", '"sep=;"\n'])
def test_a_line_that_names_the_delimiter_is_no_row(line):
    assert read(f"{line}a;b\n1,2;3\n") == ("cells separated by semicolons", [{"a": "1,2", "b": "3"}])


def test_columns_without_name_or_content_are_passed_over():
    assert read("a,b,,\n1,2,,\n3,4\n")[1] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert read(",a\n0,x\n1,y\n")[1] == [{"(no name, column 1)": "0", "a": "x"}, {"(no name, column 1)": "1", "a": "y"}]


def test_rows_without_content_are_passed_over():
    assert read("a,b\n,\n \n1,2\n,,,,\n")[1] == [{"a": "1", "b": "2"}]


def test_white_space_around_names_is_not_part_of_them():
    assert read(" a , b\n1,2\n")[1] == [{"a": "1", "b": "2"}]


def test_two_columns_of_one_name():
    with pytest.raises(ColumnError, match="more than one column a"):
        read("a,b,a\n1,2,3\n")
