"""docker/digest.py: what of an image counts, on hand-made tars."""

import io
import runpy
import tarfile

import pytest

from tests.conftest import ROOT

digest = runpy.run_path(str(ROOT / "docker" / "digest.py"))["digest"]


def tar(*entries: dict) -> io.BytesIO:
    """A tar of entries, which are a file of root's with the text "a" unless they say otherwise."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry in entries:
            item = tarfile.TarInfo()
            data = b"" if "type" in entry else entry.pop("data", b"a")
            item.size = len(data)
            for name, value in entry.items():
                setattr(item, name, value)
            archive.addfile(item, io.BytesIO(data))
    stream.seek(0)
    return stream


def content(*entries: dict) -> str:
    return digest(tar(*entries))[0]


def test_order_time_and_spelling_of_paths_do_not_count():
    first = content({"name": "a/b", "mtime": 1}, {"name": "c", "mtime": 2})
    assert first == content({"name": "./c", "mtime": 3}, {"name": "./a/b", "mtime": 4})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "g"},
        {"mode": 0o755},
        {"mode": 0o4644},
        {"uid": 1},
        {"gid": 1},
        {"data": b"b"},
        {"type": tarfile.DIRTYPE},
    ],
    ids=str,
)
def test_everything_else_counts(change):
    assert content({"name": "f"}) != content({"name": "f"} | change)


def test_a_links_target_counts():
    link = {"name": "l", "type": tarfile.SYMTYPE}
    assert content(link | {"linkname": "a"}) != content(link | {"linkname": "b"})


def test_missing_and_further_files_count():
    both = content({"name": "f"}, {"name": "g"})
    assert len({both, content({"name": "f"}), content({"name": "f"}, {"name": "g"}, {"name": "h"})}) == 3


def test_which_name_of_a_file_comes_first_does_not_count():
    def hard(name: str, to: str) -> dict:
        return {"name": name, "type": tarfile.LNKTYPE, "linkname": to}

    assert content({"name": "f"}, hard("g", "./f")) == content({"name": "g"}, hard("f", "g"))


def test_what_the_engine_puts_into_every_container_does_not_count():
    own = ("dev/console", ".dockerenv", "etc/hosts", "etc/resolv.conf", "proc/x")
    assert content({"name": "f"}) == content({"name": "f"}, *({"name": name} for name in own))
    assert content({"name": "f"}) != content({"name": "f"}, {"name": "etc/hosts.allow"})


def test_size_is_that_of_the_files():
    assert digest(tar({"name": "f", "data": b"abc"}, {"name": "g", "data": b"de"}))[1] == 5
