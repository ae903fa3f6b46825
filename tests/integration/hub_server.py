"""A stand-in for a model hub on this machine: one repository, at one commit, served from a folder, over a line that breaks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from lorabundle.core.files import sha256_file


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder`. `broken` are those of which it sends half of what is asked for, and then hangs up."""

    def __init__(self, folder: Path, repo_id: str, revision: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.repo_id, self.revision = folder, repo_id, revision
        self.broken: set[str] = set()
        self.sent: list[str] = []  # the files that were asked for

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: the list of files, and each file with its hash, from any byte on."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path, hub = urlsplit(self.path).path, self.server
        if path == f"/api/models/{hub.repo_id}/tree/{hub.revision}":
            self._answer(200, json.dumps([entry(file) for file in sorted(hub.folder.iterdir())]).encode())
            return
        name = path.removeprefix(f"/{hub.repo_id}/resolve/{hub.revision}/")
        if name == path or not (hub.folder / name).is_file():
            self._answer(404, b"{}")
            return
        file = hub.folder / name
        content, first, listed = file.read_bytes(), 0, entry(file)
        headers = {"X-Repo-Commit": hub.revision, "ETag": f'"{listed["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in listed:
            headers |= {"X-Linked-Etag": f'"{listed["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            hub.sent.append(name)
        self._answer(206 if asked else 200, content[first:], headers, broken=name in hub.broken)

    do_HEAD = do_GET  # http.server's name for the method

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None, broken: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if broken else content)
        self.close_connection = broken

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def entry(file: Path) -> dict:
    """A file in the hub's list: its git hash, and for weights its sha256."""
    content = file.read_bytes()
    found = {
        "type": "file",
        "path": file.name,
        "size": len(content),
        "oid": sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if file.suffix == ".safetensors":
        found["lfs"] = {"oid": sha256_file(file), "size": len(content), "pointerSize": 130}
    return found


@contextmanager
def serve(folder: Path, repo_id: str, revision: str) -> Iterator[Hub]:
    """Serve a folder while the context lasts."""
    with Hub(folder, repo_id, revision) as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
