"""Encodings: marks, guesses, and commands that work when pasted."""

import gzip
import io
import shlex
import subprocess

import pytest

from lorabundle.core.errors import MalformedInputError
from lorabundle.data.text_encoding import damaged_file, encoding_hint, open_text

TEXTS = {
    "windows-1252": "Où est l’hôtel ? Près de l’église, à côté du café. Größe und Straße: “schön”. ¿Cómo está el niño?\n",
    "windows-1251": "Где находится гостиница? Она стоит рядом с церковью, около большого старого моста через реку.\n",
    "gb18030": "旅馆在哪里？旅馆就在教堂旁边，离咖啡馆不远，过了桥再往前走几分钟就到了。\n",
    "shift_jis": "ホテルはどこですか。ホテルは教会のとなりにあります。橋を渡って少し歩いてください。\n",
    "windows-1253": "Πού είναι το ξενοδοχείο; Είναι δίπλα στην εκκλησία, κοντά στη μεγάλη παλιά γέφυρα.\n",
}


def text_of(content: bytes, tmp_path, encoding: str | None = None) -> tuple[str, str]:
    file, described = open_text(io.BufferedReader(io.BytesIO(content)), tmp_path / "d.csv", encoding)
    return file.read(), described


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16"), ("utf-32", "UTF-32")],
)
def test_a_mark_decides(tmp_path, encoding, named):
    assert text_of("héllo\r\n".encode(encoding), tmp_path) == ("héllo\r\n", f"{named}, by its byte order mark")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named(tmp_path, encoding):
    with pytest.raises(MalformedInputError, match=r"looks like UTF-16 without a byte order mark.*iconv -f utf-16"):
        text_of('{"a": "x"}\n'.encode(encoding), tmp_path)
    assert text_of('{"a": "x"}\n'.encode(encoding), tmp_path, encoding)[0] == '{"a": "x"}\n'


def test_a_mark_against_the_setting_is_an_error(tmp_path):
    with pytest.raises(
        MalformedInputError, match=r"starts with the byte order mark of UTF-8, but data\.encoding is windows-1252"
    ):
        text_of("x".encode("utf-8-sig"), tmp_path, "windows-1252")


def test_bytes_that_are_not_utf8_are_escaped(tmp_path):
    assert text_of(b"caf\xe9", tmp_path)[0] == "caf\udce9"
    assert text_of(b"caf\xe9", tmp_path, "windows-1252") == ("café", "windows-1252, by data.encoding")


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("name", ["ansi.csv", "my data.csv", "ansi.csv.gz"])
def test_the_command_in_the_message_converts_the_file(tmp_path, monkeypatch, encoding, name):
    monkeypatch.chdir(tmp_path)
    text = "question;answer\n" + TEXTS[encoding] * 20
    content = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    hint = encoding_hint((tmp_path / name).relative_to(tmp_path))
    assert f"It is probably {encoding}" in hint
    command = hint.partition("Convert it: ")[2].partition(" and name the new file")[0]
    subprocess.run(["bash", "-c", command], check=True)
    (converted,) = tmp_path.glob("*-utf8.csv")
    assert converted.read_text() == text
    assert f"data.encoding: {encoding}" in hint
    assert shlex.quote(converted.name) in command


def test_the_damaged_file_is_found(tmp_path):
    (tmp_path / "a.csv").write_text("fine\n")
    (tmp_path / "b.csv").write_bytes(b"caf\xe9\n")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert damaged_file(paths) == paths[1]
    assert damaged_file(paths[:1]) == paths[0]
