"""Files from web servers: whole, after whatever happens to the connection, or a clear error."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
from functools import partial

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.remote import is_url, open_binary

CONTENT = bytes(range(256)) * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; `behaviour` says what goes wrong and how often."""

    def __init__(self, behaviour, *args):
        self.behaviour = behaviour
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):
        trouble = self.behaviour.pop(0) if self.behaviour else None
        if isinstance(trouble, int):
            self.send_error(trouble)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        if trouble == "no ranges":
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        if trouble in ("drop", "drop at once"):
            self.wfile.write(CONTENT[start : start + 400_000] if trouble == "drop" else b"")
            self.connection.close()
            return
        self.wfile.write(CONTENT[start:])


@contextlib.contextmanager
def served(*behaviour):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, list(behaviour)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.tar"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("end", ["", "/", "/.", "/..", "/x.json", "/x.json?u=/", "/x.json#/", "/a/"])
def test_reading_a_manifest_from_any_address_leaves_nothing_behind_and_takes_nothing_else_away(tmp_path, end):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / "another program's").write_text("file")
    code = "import sys; from mousefacelift.shards.manifest import read_manifest; read_manifest(sys.argv[1])"
    with served() as url:
        command = [sys.executable, "-c", code, url.removesuffix("/x.tar") + end]
        environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "UserError: http://127.0.0.1" in done.stderr
    assert [path.name for path in (tmp_path / "temporary").iterdir()] == ["another program's"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("mousefacelift.base.remote.WAITS_S", (0, 0, 0, 0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("behaviour", [(), ("drop",), ("drop", "drop", 503), (503, 502)])
def test_a_file_arrives_whole_although_the_connection_breaks(behaviour):
    with served(*behaviour) as url, open_binary(url) as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ((404,), "the server says 404 Not Found"),
        ((403,), "the server says 403"),
        ((503,) * 9, "the server says 503"),
        (("drop at once",) * 9, "cannot be read"),
        (("drop", "no ranges"), "cannot continue a download"),
    ],
)
def test_what_cannot_be_had_is_named(behaviour, message):
    with served(*behaviour) as url, pytest.raises(UserError, match=message) as raised, open_binary(url) as stream:
        stream.read()
    assert "x.tar" in str(raised.value)


def test_a_server_that_is_not_there_is_said_at_once():
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/x: cannot be read"):
        open_binary("http://127.0.0.1:9/x", patient=False)


def test_a_path_is_a_file_and_never_a_url(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    with open_binary(str(tmp_path / "a")) as stream:
        assert stream.read() == b"content"
    with pytest.raises(UserError, match="No such file"):
        open_binary(str(tmp_path / "b"))
    assert is_url("https://host/x") and not is_url("file:///etc/passwd") and not is_url("/tmp/http://x")
