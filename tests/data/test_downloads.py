import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jaxgpt.data import downloads
from jaxgpt.data.downloads import SOURCES, Source, default_cache, fetch
from jaxgpt.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, the first part of the path saying with what misfortune."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers["Range"]))
        how = self.path.split("/")[1]
        getattr(self, how)()

    def answer(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def good(self):
        wanted = self.headers["Range"]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(CONTENT):
            self.answer(416)
        else:
            self.answer(206 if wanted else 200, CONTENT[start:])

    def no_ranges(self):
        self.answer(200, CONTENT)

    def no_length(self):
        self.answer(200, CONTENT, length="none")

    def truncated(self):
        self.answer(200, CONTENT[:100_000], length=len(CONTENT))

    def missing(self):
        self.answer(404)

    def hub(self):
        self.answer(302, Location="/good/a.txt", X_Linked_ETag=f'"{SUM}"')

    def hub_wrong(self):
        self.answer(302, Location="/good/a.txt", X_Linked_ETag=f'"{SUM[::-1]}"')

    def hub_other(self):
        self.answer(302, Location="/good/a.txt", X_Linked_ETag='"a2c1"')

    def silent(self):
        self.server.released.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.released = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def source(server, monkeypatch):
    """`source(*hows)`: the data set "set", each of its files served in this manner."""

    def make(*hows, sha256=()):
        root = f"http://127.0.0.1:{server.server_port}"
        urls = tuple(f"{root}/{how}/{name}.txt" for how, name in zip(hows, "abc", strict=False))
        monkeypatch.setitem(SOURCES, "set", Source(urls, sha256))

    return make


def names(folder):
    return sorted(os.listdir(folder))


def test_files_are_fetched_once_and_recorded(tmp_path, source, server):
    source("good", "good", "good")
    paths = fetch("set", tmp_path, shards=2)
    assert paths == [tmp_path / "set" / "a.txt", tmp_path / "set" / "b.txt"]
    assert [path.read_bytes() for path in paths] == [CONTENT] * 2
    assert names(tmp_path / "set") == ["a.txt", "a.txt.sha256", "b.txt", "b.txt.sha256"]
    assert (tmp_path / "set" / "a.txt.sha256").read_text() == f"{SUM}  a.txt\n"
    assert len(server.requests) == 2
    assert fetch("set", tmp_path, shards=2) == paths
    assert len(server.requests) == 2


@pytest.mark.parametrize("how", ["good", "no_ranges", "no_length", "hub", "hub_other"])
@pytest.mark.parametrize("begun", [0, 1, 100_000, len(CONTENT)])
def test_a_download_is_taken_up_where_it_ended(tmp_path, source, server, how, begun):
    source(how)
    folder = tmp_path / "set"
    folder.mkdir()
    if begun:
        (folder / "a.txt.part").write_bytes(CONTENT[:begun])
    seen = []
    (path,) = fetch("set", tmp_path, progress=lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["a.txt", "a.txt.sha256"]
    assert seen[-1] == ("a.txt", len(CONTENT), None if how == "no_length" else len(CONTENT))
    assert server.requests[0][1] == (f"bytes={begun}-" if begun else None)


def test_a_damaged_or_known_file_in_the_cache_is_fetched_anew(tmp_path, source, server):
    source("good")
    (path,) = fetch("set", tmp_path)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch("set", tmp_path)[0].read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_file_that_was_brought_by_hand_is_used(tmp_path, source, server):
    source("missing")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_bytes(b"mine")
    assert fetch("set", tmp_path) == [tmp_path / "set" / "a.txt"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("how", "sha256", "reason", "left"),
    [
        ("missing", (), "Not Found", []),
        ("truncated", (), "ended after 100000 of 256000 bytes", ["a.txt.part"]),
        ("silent", (), "timed out", []),
        ("hub_wrong", (), f"sum {SUM} instead of {SUM[::-1]}", []),
        ("good", ("0" * 64,), f"sum {SUM} instead of 000", []),
        ("no_length", ("0" * 64,), f"sum {SUM} instead of 000", []),
    ],
)
def test_a_failure_is_one_clear_error_and_no_file(
    tmp_path, source, how, sha256, reason, left, monkeypatch
):
    monkeypatch.setattr(downloads, "_SILENCE", 0.2)
    source(how, sha256=sha256)
    with pytest.raises(
        DataError, match=rf"127\.0\.0\.1:\d+/{how}/a\.txt: .*{reason}.*text of your"
    ):
        fetch("set", tmp_path)
    assert names(tmp_path / "set") == left


def test_a_refused_connection_names_the_place_for_the_file(tmp_path, source, server, monkeypatch):
    monkeypatch.setitem(SOURCES, "set", Source(("http://127.0.0.1:1/a.txt",)))
    with pytest.raises(DataError, match=rf"refused.*bring the file to {tmp_path}/set/a\.txt"):
        fetch("set", tmp_path)


def test_bad_requests_are_refused_before_any_download(tmp_path, source, server):
    source("good", "good")
    for shards in (0, 3):
        with pytest.raises(ConfigError, match="from 1 to 2 for set"):
            fetch("set", tmp_path, shards=shards)
    with pytest.raises(ConfigError, match="no data set is called 'sets'; there are tinyshake"):
        fetch("sets", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="JAXGPT_CACHE"):
        fetch("set", tmp_path / "file")
    assert server.requests == []


def test_the_cache_folder_follows_the_environment(tmp_path, source, monkeypatch):
    source("good")
    monkeypatch.setenv("JAXGPT_CACHE", str(tmp_path))
    assert fetch("set") == [tmp_path / "set" / "a.txt"]
    monkeypatch.delenv("JAXGPT_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache() == Path("/home/someone/.cache/jaxgpt")


def test_a_full_disk_is_a_resource_error(tmp_path, source, monkeypatch):
    source("good")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "_download", full)
    with pytest.raises(downloads.ResourceError, match="disk is full"):
        fetch("set", tmp_path)


def test_the_table_of_sources_is_sound():
    for name, source in SOURCES.items():
        files = [url.rsplit("/", 1)[1] for url in source.urls]
        assert len(set(files)) == len(files), name
        assert all(url.startswith("https://") for url in source.urls)
        assert len(source.sha256) in (0, len(source.urls))
    assert SOURCES["fineweb-edu"].urls[13].endswith("/sample/10BT/013_00000.parquet")
    assert SOURCES["openwebtext"].urls[79].endswith("/train-00079-of-00080.parquet")
