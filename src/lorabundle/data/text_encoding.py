"""Which encoding a text file has: by its byte order mark, by the user's word, else UTF-8; and a guess for the message if it is not.

A byte that is not of the encoding becomes half a surrogate pair (Python's "surrogateescape"), so that reading goes on and only a
column that is used can condemn its row.
"""

import codecs
import io
import re
import shlex
from pathlib import Path

from charset_normalizer import from_bytes

from lorabundle.core.errors import MalformedInputError
from lorabundle.data.packed import check_is_text, open_unpacked, packed_suffix

# The longer marks first: that of UTF-32 begins with that of UTF-16
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
ESCAPED = re.compile("[\udc80-\udcff]")  # how bytes that are not of the encoding are decoded
SAMPLE = 1 << 16  # bytes to guess from
# Python's name -> the name that iconv and people know. Only these are proposed: the guess may name one of a hundred.
LIKELY = {
    "cp1252": "windows-1252",
    "cp1250": "windows-1250",
    "cp1251": "windows-1251",
    "cp1253": "windows-1253",
    "cp1254": "windows-1254",
    "cp1255": "windows-1255",
    "cp1256": "windows-1256",
    "cp874": "windows-874",
    "koi8_r": "koi8-r",
    "gb18030": "gb18030",
    "big5": "big5",
    "shift_jis": "shift_jis",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
}
UNPACKERS = {".gz": "gzip -dc", ".zst": "zstd -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc"}


def open_text(file: io.BufferedReader, path: Path, encoding: str | None) -> tuple[io.TextIOWrapper, str]:
    """(the file as text with its line endings as they are, what its encoding is and why).

    Args:
        file: at its start.
        path: for messages.
        encoding: what `data.encoding` says, or None.

    Raises:
        MalformedInputError: the file is no text, its mark contradicts `encoding`, or the file is UTF-16 without a mark.
    """
    start = file.peek(SAMPLE)
    check_is_text(path, start)
    for mark, marked in MARKS.items():
        if start.startswith(mark):
            if encoding and codecs.lookup(encoding).name.split("-")[:2] != marked.split("-")[:2]:
                raise MalformedInputError(
                    f"{path} starts with the byte order mark of {marked.upper()}, but data.encoding is {encoding}. Leave data.encoding out."
                )
            file.read(len(mark))
            described = f"{marked[:6].rstrip('-').upper()}, by its byte order mark"
            return io.TextIOWrapper(file, marked, errors="surrogateescape", newline=""), described
    if encoding is None and (marked := _utf16_without_mark(start)):
        raise MalformedInputError(f"{path} looks like UTF-16 without a byte order mark. {_ways(path, marked)}")
    described = f"{encoding}, by data.encoding" if encoding else "UTF-8"
    return io.TextIOWrapper(file, encoding or "utf-8", errors="surrogateescape", newline=""), described


def _utf16_without_mark(start: bytes) -> str:
    """In text of most languages at least the line breaks and brackets have a zero as every second byte."""
    zeros = [start[offset::2].count(0) for offset in (0, 1)]
    if not start or max(zeros) * 10 < len(start) or min(zeros):
        return ""
    return "utf-16be" if zeros[0] else "utf-16le"


def encoding_hint(path: Path) -> str:
    """What a file's encoding probably is, and the ways to have it read: sentences for a message."""
    guess = _guess(_damaged_part(path))
    if not guess:
        return "Its encoding cannot be guessed. Save it as UTF-8 in the program that wrote it, or set data.encoding to what it is."
    return f"It is probably {guess}. {_ways(path, guess)}"


def damaged_file(paths: list[Path]) -> Path:
    """The first of some files that has bytes that are not UTF-8; the first one if all are."""
    return next((path for path in paths if _damaged_part(path)), paths[0])


def _ways(path: Path, encoding: str) -> str:
    suffix = packed_suffix(path)
    plain = path.with_suffix("") if suffix else path
    target = shlex.quote(plain.with_name(f"{plain.stem}-utf8{plain.suffix}").as_posix())
    source = shlex.quote(path.as_posix())
    command = f"iconv -f {encoding} -t utf-8 {'' if suffix else source + ' '}> {target}"
    if suffix:
        command = f"{UNPACKERS[suffix]} {source} | {command}"
    return (
        f"Convert it: {command} and name the new file; or have it read as it is: "
        f'data.encoding: {encoding} in the config, or SET="data.encoding={encoding}".'
    )


def _damaged_part(path: Path) -> bytes:
    """The lines with bytes that are not UTF-8, up to `SAMPLE` bytes. Lines without say nothing about the encoding."""
    lines: list[bytes] = []
    size = 0
    with open_unpacked(path) as file:
        for line in iter(lambda: file.readline(SAMPLE), b""):
            try:
                line.decode()
            except UnicodeDecodeError:
                lines.append(line)
                size += len(line)
                if size >= SAMPLE:
                    break
    return b"".join(lines)


def _guess(sample: bytes) -> str:
    matches = [str(match.encoding) for match in from_bytes(sample, cp_isolation=list(LIKELY))]
    # What is only Latin letters and typographic quotes is windows-1252 far more often than its rare neighbours
    latin = {"cp1252", "cp1250", "cp1254"}
    if matches and matches[0] in latin and "cp1252" in matches and _is_western(sample):
        return LIKELY["cp1252"]
    return LIKELY.get(matches[0], matches[0]) if matches else ""


def _is_western(sample: bytes) -> bool:
    """Whether the bytes above ASCII, read as windows-1252, are mostly the letters and signs of Western European languages."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    special = [character for character in text if ord(character) > 127]
    common = "äöüßÄÖÜéèêëàâçùûîïôœáíóúñ¿¡ÉÀåæøÅÆØãõ“”‘’–—…€°«»£\xa0"
    return sum(character in common for character in special) >= 0.9 * len(special)
