"""A judge behind a local server: what it is asked, what its replies mean, and how it fails."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from jaxgpt.assistant.judge import Judge
from jaxgpt.errors import ConfigError, DataError

KEY = "sk-secret-0123456789"


class Handler(BaseHTTPRequestHandler):
    """Replies with the next of the server's (status, body), the last of them for ever."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        replies = self.server.replies
        status, text = replies.pop(0) if len(replies) > 1 else replies[0]
        if status == "silent":
            self.server.released.wait(10)
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("jaxgpt.assistant.judge._FIRST_WAIT", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def reply(content):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def judge(server, **options):
    return Judge(server.url, "referee", **{"timeout": 5.0} | options)


@pytest.mark.parametrize(
    ("content", "verdict"),
    [("A", "A"), ("B", "B"), (" tie\n", "tie"), ("Tie", "tie")]
    + [(other, None) for other in ("A.", "Answer A", "", "C", "A or B", None, 3)],
)
def test_the_verdict_is_one_word(server, content, verdict):
    server.replies = [reply(content)]
    assert judge(server).compare("Who?", "Finn.", "Mara.") == verdict


def test_what_the_judge_is_asked(server, monkeypatch):
    server.replies = [reply("A")]
    monkeypatch.setenv("OPENAI_API_KEY", "no key for a judge that names another")
    judge(server, key_variable="OTHER").compare("Who?", "Finn.", "Mara.")
    monkeypatch.setenv("OTHER", KEY + "\n")
    Judge(server.url + "/chat/completions", "referee", "OTHER").compare("Who?", "a", "b")
    (path, without, body), (same, key, _) = server.requests
    assert path == same == "/v1/chat/completions"
    assert (without, key) == (None, f"Bearer {KEY}")
    assert (body["model"], body["temperature"]) == ("referee", 0)
    assert body["messages"][-1] == {
        "role": "user",
        "content": "Question:\nWho?\n\nAnswer A:\nFinn.\n\nAnswer B:\nMara.",
    }


@pytest.mark.parametrize("trouble", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(server, trouble):
    server.replies = [(trouble, "busy"), (trouble, "busy"), reply("B")]
    assert judge(server).compare("Who?", "a", "b") == "B"
    assert len(server.requests) == 3
    server.replies = [(trouble, "too\n many")]
    with pytest.raises(DataError, match=rf"status {trouble} after 3 tries; .*'referee': too many$"):
        judge(server, retries=2).compare("Who?", "a", "b")


def test_a_silent_server_is_asked_again(server):
    server.replies = [("silent", ""), reply("B")]
    assert judge(server, timeout=0.2).compare("Who?", "a", "b") == "B"
    server.replies = [("silent", "")]
    with pytest.raises(DataError, match=r"cannot be reached \(timed out\)"):
        judge(server, timeout=0.05, retries=1).compare("Who?", "a", "b")


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (401, KEY, r"/v1/chat/completions: the API key is refused \(401\); set OPENAI_API_KEY to"),
        (403, KEY, r"the API key is refused \(403\)"),
        (404, f"no model; {KEY}", r"status 404; .* the model 'referee': no model; \*\*\*$"),
        (302, "", "status 302; check the URL"),
        (200, "<html>", "not that of an OpenAI-compatible server"),
        (200, "[" * 9999, "not that of an OpenAI-compatible server"),
        (200, '{"choices": []}', "not that of an OpenAI-compatible server"),
        (200, '{"choices": [{"message": "A"}]}', "not that of an OpenAI-compatible server"),
    ],
)
def test_a_refusal_is_one_line_without_the_key(server, monkeypatch, status, body, complaint):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.replies = [(status, body)]
    with pytest.raises(DataError, match=complaint) as caught:
        judge(server).compare("Who?", "a", "b")
    assert len(server.requests) == 1
    assert KEY not in str(caught.value) + repr(judge(server))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://judge.example/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.2/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://judge.example/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://localhost@judge.example/v1", False),
        ("http://localhost.judge.example/v1", False),
    ],
)
def test_the_standard_key_is_never_sent_in_clear(monkeypatch, url, sent):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    if not sent:
        with pytest.raises(
            ConfigError, match=r"OPENAI_API_KEY is set, but to .* in clear; take an"
        ):
            Judge(url, "referee").compare("Who?", "a", "b")
    named = Judge(url, "referee", key_variable="OPENAI_API_KEY" if not sent else "")
    assert named._key() == KEY


def test_a_server_that_is_not_there(server):
    gone = Judge("http://127.0.0.1:9/v1", "referee")
    with pytest.raises(DataError, match=r"127.0.0.1:9/v1/chat/completions: cannot be reached \("):
        gone.compare("Who?", "a", "b")


def test_what_cannot_be_asked(server, monkeypatch):
    with pytest.raises(ConfigError, match="url is 'ftp://x'; it must begin with http"):
        Judge("ftp://x", "referee")
    with pytest.raises(ConfigError, match=r"timeout is 0.0; it must be from 0.001 to 3,600"):
        judge(server, timeout=0.0)
    with pytest.raises(ConfigError, match="retries is -1"):
        judge(server, retries=-1)
    with pytest.raises(DataError, match="cannot be reached"):
        Judge("http://127.0.0.1:port", "referee").compare("Who?", "a", "b")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds a character that no") as caught:
        judge(server).compare("Who?", "a", "b")
    assert KEY not in str(caught.value)
