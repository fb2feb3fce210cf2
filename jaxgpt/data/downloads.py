"""Files from the network: fetched once, checked by their sums, kept; and data sets by name."""

import errno
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from jaxgpt.errors import ConfigError, DataError, ResourceError
from jaxgpt.files import file_sha256, write_file


class NotThereError(DataError):
    """A file that the server says it does not have."""


Progress = Callable[[str, int, int | None], object]

_BLOCK = 1 << 20
_SILENCE = 30.0  # seconds for which a server may say nothing
_HUB = "https://huggingface.co/datasets"


@dataclass(frozen=True)
class Source:
    """Where a data set lives: the URL of each of its files, and their sums where known in advance.

    For the other files the sum that the server publishes is used.
    """

    urls: tuple[str, ...]
    sha256: tuple[str, ...] = ()


SOURCES = {
    "tinyshakespeare": Source(
        (
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
        ),
        ("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",),
    ),
    "fineweb-edu": Source(
        tuple(
            f"{_HUB}/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/{number:03d}_00000.parquet"
            for number in range(14)
        )
    ),
    "openwebtext": Source(
        tuple(
            f"{_HUB}/Skylion007/openwebtext/resolve/main/plain_text/"
            f"train-{number:05d}-of-00080.parquet"
            for number in range(80)
        )
    ),
}


def default_cache() -> Path:
    """The folder that `JAXGPT_CACHE` names, else `~/.cache/jaxgpt`; raises ConfigError."""
    if named := os.environ.get("JAXGPT_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "jaxgpt"
    except RuntimeError:
        raise ConfigError("there is no home folder; set JAXGPT_CACHE to a folder") from None


def cache_subfolder(name: str, cache_folder: str | Path | None = None) -> Path:
    """The folder `name` of the cache, made if need be; raises ConfigError if it cannot be."""
    folder = Path(cache_folder or default_cache()) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be created ({error.strerror}); set JAXGPT_CACHE to another folder"
        ) from None
    return folder


def fetch(
    name: str,
    cache_folder: str | Path | None = None,
    *,
    shards: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """The first `shards` files of the data set `name`, downloaded unless the cache has them.

    A file lies under `<cache_folder>/<name>/`, beside a `.sha256` file with its sum, and has that
    name only once it is whole and its sum is right; a download that broke off is taken up where it
    ended. `progress(file, done, total)` counts bytes, `total` being None where the server does not
    say. Raises ConfigError for no such name, or not that many files; DataError, with what to do
    then, for a download that failed.
    """
    if name not in SOURCES:
        raise ConfigError(f"no data set is called {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    if not 1 <= shards <= len(source.urls):
        raise ConfigError(f"shards must be from 1 to {len(source.urls)} for {name}, not {shards}")
    folder = cache_subfolder(name, cache_folder)
    sums = source.sha256 or (None,) * len(source.urls)
    return [
        fetch_file(url, folder / url.rsplit("/", 1)[1], sha256=known, progress=progress)
        for url, known, _ in zip(source.urls, sums, range(shards), strict=False)
    ]


def fetch_file(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    instead: str = "use text of your own",
) -> Path:
    """Download one file to `path`, unless it is there with the sum it should have.

    That is `sha256`, or the sum that the server publishes. Raises NotThereError or another
    DataError, which end in what to do `instead`, and ResourceError if the disk is full.
    """
    record = path.with_name(path.name + ".sha256")
    if path.is_file():
        expected = sha256 or (record.read_text("utf-8").split()[0] if record.is_file() else None)
        if expected in (None, file_sha256(path)):
            return path
    partial = path.with_name(path.name + ".part")
    try:
        published = _download(url, partial, progress)
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise ResourceError(f"{partial}: the disk is full; make room and run again") from None
        missing = getattr(error, "code", None) == http.HTTPStatus.NOT_FOUND
        raise (NotThereError if missing else DataError)(
            f"{url}: the download failed ({getattr(error, 'reason', error)}); run again to go on "
            f"with it, or without a network bring the file to {path} yourself, or {instead}"
        ) from None
    found, expected = file_sha256(partial), sha256 or published
    if expected not in (None, found):
        partial.unlink()
        raise DataError(
            f"{url}: the file has the sha256 sum {found} instead of {expected}; it was damaged on "
            f"the way or is another one by now; run again, or {instead}"
        )
    write_file(record, f"{found}  {path.name}\n")
    partial.replace(path)
    return path


def _download(url: str, partial: Path, progress: Progress | None) -> str | None:
    """Download what `partial` lacks of the file; the result is the sum the server publishes."""
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "jaxgpt"} | ({"Range": f"bytes={done}-"} if done else {})
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=_SILENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not done:
            raise
        partial.unlink()  # it holds all of the file or more, so begin anew
        return _download(url, partial, progress)
    # Of a fixed name, by which a download goes on; never through a link.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with response, open(partial, "ab", opener=lambda path, _: os.open(path, flags, 0o666)) as file:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
            done = 0
        length = response.headers["Content-Length"]
        total = None if length is None else done + int(length)
        while block := response.read(_BLOCK):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(partial.stem, done, total)
    if total is not None and done < total:
        raise ConnectionError(f"it ended after {done} of {total} bytes")
    return redirects.sha256 or _published_sum(response.headers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the sum that Hugging Face gives with its redirect to where the file is stored."""

    sha256: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Follow the redirect; called by urllib."""
        self.sha256 = self.sha256 or _published_sum(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _published_sum(headers: Message) -> str | None:
    found = re.fullmatch(r'"?([0-9a-f]{64})"?', headers["X-Linked-ETag"] or "")
    return found[1] if found else None
