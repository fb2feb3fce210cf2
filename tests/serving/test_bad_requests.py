"""Requests by raw sockets that no client would send: the right status, one JSON error, no slot."""

import json
import socket
import time
from contextlib import suppress

import pytest
from fake_engine import FakeEngine

HELLO = b'{"messages": [{"role": "user", "content": "Who?"}]}'
JSON = (b"Host: localhost", b"Content-Type: application/json")


@pytest.fixture(scope="module")
def slow(base):
    return FakeEngine(base.tokenizer, text="Finn ran to sea. " * 50, seconds=0.01)


@pytest.fixture(scope="module")
def url(serve, base):
    settings = {"body_timeout": 0.4, "body_limit": 2048}
    with serve(FakeEngine(base.tokenizer), **settings) as url:
        yield url


def request(method, path, *headers, body=None):
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1".encode(), *headers]
    lines += [] if body is None else [b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body or b""])


def talk(url, content, *, seconds=5.0, half_close=False):
    """The status, headers and body that come back for the bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        with suppress(ConnectionError):
            connection.sendall(content)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := _received(connection):
            found += part
            head, blank, body = found.partition(b"\r\n\r\n")
            wanted = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
            if head.startswith(b"HTTP/1.1 204"):
                break
            if blank and wanted and len(body) >= int(wanted[0].split(b":")[1]):
                break
    if not found:
        return 0, {}, b""
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def _received(connection):
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def check(answer, status, said):
    """Whether an answer has the status, and one error in OpenAI's form that says so."""
    found, headers, body = answer
    assert found == status, body
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert said in error["message"]
    assert "\n" not in error["message"]
    return headers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "the body is a list; it must be a JSON object"),
        (b'"\xff"', "not UTF-8: byte 0xff at offset 1"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"n": 1, "n": 2}', "key n stands twice"),
        (b'{"n": NaN}', "NaN"),
        (b'{"temperature": 1e999}', "beyond the largest double"),
        (b'{"seed": 99999999999999999999999}', "beyond 64 bits"),
        (b"[" * 1000 + b"]" * 1000, "nested too deeply"),
        (b'{"messages": "Who?"}', "messages is 'Who?'; it must be a list"),
        (b'{"messages": []}', "messages is missing or empty"),
        (b'{"messages": [1]}', "messages[0] is 1; it must be an object"),
        (b'{"messages": [{"role": "tool", "content": ""}]}', "messages[0].role is 'tool'"),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content is None; it must be a text"),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', "the last message is of assist"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages[0].content[0] is 'image_url'; parts must be text",
        ),
    ],
)
def test_a_body_that_cannot_be_read(url, body, said):
    check(talk(url, request("POST", "/v1/chat/completions", *JSON, body=body)), 400, said)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("temperature", -1, "temperature is -1.0; it must be from 0 to 2"),
        ("temperature", "hot", "temperature is 'hot'; it must be a float"),
        ("temperature", 1e-9, "1e-6"),
        ("top_p", 0, "top_p is 0.0; it must be above 0"),
        ("top_k", -1, "top_k is -1"),
        ("n", 0, "n is 0; it must be from 1"),
        ("n", 5, "5 answers are asked for; at most 4 are written at once"),
        ("n", True, "n is True; it must be an int"),
        ("max_tokens", -5, "max_tokens is -5; it must be from 1"),
        ("max_completion_tokens", 10**18, "it must be from 1 to 1,000,000"),
        ("seed", -1, "seed is -1; it must be from 0 to 4,294,967,295"),
        ("stop", ["a"] * 5, "stop has 5 texts; at most 4"),
        ("stop", [""], "it must have from 1 to 500"),
        ("stop", 3, "stop is 3"),
        ("stream", "yes", "stream is 'yes'; it must be a bool"),
        ("stream_options", {}, "stream_options goes with stream true"),
        ("top_logprobs", 2, "top_logprobs goes with logprobs true"),
        ("truncation", "left", "truncation is 'left'; it must be one of auto, disabled"),
        ("presence_penalty", 0.5, "presence_penalty is not built here"),
        ("logit_bias", {"1": 5}, "logit_bias is not built here"),
        ("response_format", {"type": "json_object"}, "response_format is not built here"),
        ("temprature", 1, "there is no field 'temprature' (did you mean temperature?)"),
        ("model", "../x", "there is no model '../x'"),
    ],
)
def test_a_field_that_cannot_be(url, field, value, said):
    body = json.dumps(json.loads(HELLO) | {field: value}).encode()
    status = 404 if field == "model" else 400
    check(talk(url, request("POST", "/v1/chat/completions", *JSON, body=body)), status, said)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([], "prompt is an empty list"),
        ([[]], "prompt has []"),
        ({}, "prompt has {}"),
        ([1, "a"], "prompt has 1"),
        ([-1], "prompt has token -1"),
        ([290], "prompt has token 290; they are from 0 to 289"),
        ([1] * 64, "the prompt has 64 tokens"),
        (["a"] * 5, "5 answers are asked for"),
    ],
)
def test_a_prompt_that_cannot_be(url, prompt, said):
    body = json.dumps({"prompt": prompt}).encode()
    check(talk(url, request("POST", "/v1/completions", *JSON, body=body)), 400, said)


def test_an_empty_prompt_and_fields_of_null_are_none(url):
    body = b'{"prompt": "", "seed": null, "tools": null, "presence_penalty": 0, "user": "a"}'
    assert talk(url, request("POST", "/v1/completions", *JSON, body=body))[0] == 200


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (request("GET", "/v1/none", JSON[0]), 404, "GET /v1/none: Not Found"),
        (request("GET", "/v1/../../etc/passwd", JSON[0]), 404, "Not Found"),
        (request("GET", "/v1/models/%2e%2e%2fetc", JSON[0]), 404, "there is no model '../etc'"),
        (request("GET", "/v1/completions", JSON[0]), 405, "Method Not Allowed"),
        (request("BREW", "/health", JSON[0]), 405, "Method Not Allowed"),
        (request("POST", "/v1/completions", JSON[0], body=b"{}"), 415, "application/json"),
        (
            request("POST", "/v1/completions", *JSON, b"Content-Encoding: gzip", body=b"{}"),
            415,
            "drop the Content-Encoding",
        ),
        (request("POST", "/v1/completions", *JSON, body=b" " * 4000), 413, "2,048 bytes"),
        (request("GET", "/health", JSON[0], b"X: " + b"a" * 40000), 431, "16,384 bytes"),
        (request("GET", "/" + "a" * 40000, JSON[0]), 431, "16,384 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n", 400, "no request"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "no request"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n", 400, "no request"),
        (b"GET /heal", 408, "the headers did not arrive within 0.4 seconds"),
        (b"", 408, "the headers did not arrive within 0.4 seconds"),
        (
            request("POST", "/v1/completions", *JSON, b"Content-Length: 900") + b"{",
            408,
            "the body did not arrive within 0.4 seconds",
        ),
        (
            request("POST", "/v1/completions", *JSON, b"Transfer-Encoding: chunked") + b"zz\r\n",
            400,
            "no request",
        ),
    ],
)
def test_a_request_that_is_none(url, content, status, said):
    check(talk(url, content), status, said)


def test_ten_megabytes_are_refused_and_the_server_goes_on(serve, base):
    body = b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    with serve(FakeEngine(base.tokenizer)) as url:
        check(talk(url, request("POST", "/v1/completions", *JSON, body=body)), 413, "1,048,576")
        assert talk(url, request("GET", "/health", JSON[0]))[0] == 200


def test_a_second_request_of_a_connection_is_answered(url):
    one = request("GET", "/health", JSON[0])
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(one + one)
        found = b""
        while found.count(b'{"status"') < 2:
            found += connection.recv(65536)


def test_half_closed_and_cut_connections_leave_no_slot(serve, slow):
    content = request("POST", "/v1/chat/completions", *JSON, body=HELLO)
    stream = request(
        "POST", "/v1/chat/completions", *JSON, body=HELLO[:-1] + b', "stream": true, "n": 2}'
    )
    with serve(slow) as url:
        assert talk(url, content, half_close=True)[0] == 0
        host, _, port = url.removeprefix("http://").partition(":")
        for sent in (content, stream):
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.sendall(sent)
            while not slow.stats().busy:
                time.sleep(0.01)
            connection.close()
        ends = time.monotonic() + 5
        while slow.stats().busy and time.monotonic() < ends:
            time.sleep(0.01)
        assert slow.stats().busy == 0
        assert talk(url, request("GET", "/health", JSON[0]))[0] == 200


def test_what_a_path_holds_cannot_steer_the_log(url, capfd):
    talk(url, request("GET", "/%1b%5b2J%0afake 200", JSON[0]).replace(b"fake 200", b"fake%20200"))
    err, ends = "", time.monotonic() + 5
    while "404" not in err and time.monotonic() < ends:  # it is written behind the answer
        err += capfd.readouterr().err
    assert "\x1b" not in err
    assert "GET /\\x1b[2J fake 200 404" in err


def test_only_pages_of_its_own_may_call_it(serve, base):
    with serve(FakeEngine(base.tokenizer)) as url:
        host = url.removeprefix("http://").encode()

        def ask(*headers, method="GET"):
            return talk(url, request(method, "/v1/models", *headers))

        assert ask(b"Host: " + host)[0] == 200
        assert ask(b"Host: " + host, b"Origin: http://" + host)[0] == 200
        check(ask(b"Host: evil.example"), 403, "the Host header is 'evil.example'")
        check(ask(b"Host: evil.example:80", b"Origin: http://evil.example:80"), 403, "Host")
        foreign = (b"Host: " + host, b"Origin: https://evil.example")
        check(ask(*foreign), 403, "pages of 'https://evil.example' may not call this server")
        check(ask(b"Host: " + host, b"Origin: null"), 403, "pages of 'null'")
        check(ask(*foreign, b"Access-Control-Request-Method: GET", method="OPTIONS"), 403, "pages")


def test_beyond_loopback_a_name_is_no_proof_of_origin(serve, base):
    def ask(url, name, origin="http://%s"):
        named = name + b":" + url.rpartition(":")[2].encode()
        headers = (b"Host: " + named, b"Origin: " + origin.encode() % named)
        return talk(url, request("GET", "/health", *headers))

    with serve(FakeEngine(base.tokenizer), host="0.0.0.0") as url:
        check(ask(url, b"evil.example"), 403, "pages of 'http://evil.example")
        check(ask(url, b"10.0.0.7.evil.example"), 403, "pages of")
        check(ask(url, b"10.0.0.7", "http://evil.example#%s"), 403, "pages of")
        for name in (b"10.0.0.7", b"[fd00::7]", b"LOCALHOST"):
            assert ask(url, name)[0] == 200
        assert talk(url, request("GET", "/health", b"Host: mine.example"))[0] == 200
    with serve(FakeEngine(base.tokenizer), host="0.0.0.0", api_key="secret") as url:
        assert ask(url, b"mine.example")[0] == 200


def test_what_is_loopback_goes_by_the_address(serve, base, monkeypatch):
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        running = serve(FakeEngine(base.tokenizer), host="mine.example")
        url = running.__enter__()
    try:
        check(talk(url, request("GET", "/health", b"Host: evil.example")), 403, "the Host header")
        assert talk(url, request("GET", "/health", b"Host: mine.example"))[0] == 200
    finally:
        running.__exit__(None, None, None)


def test_too_many_requests_at_once_are_refused(serve, base, monkeypatch):
    monkeypatch.setattr("jaxgpt.serving.guard._AT_ONCE", 1)
    engine = FakeEngine(base.tokenizer, text="Finn ran to sea. " * 9, seconds=0.02)
    with serve(engine) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(request("POST", "/v1/chat/completions", *JSON, body=HELLO))
            wait_for(lambda: engine.stats().busy)
            answer = talk(url, request("GET", "/health", JSON[0]))
            headers = check(answer, 503, "1 requests are being answered, the most at once")
            assert int(headers["retry-after"]) > 0
        wait_for(lambda: talk(url, request("GET", "/health", JSON[0]))[0] == 200)


def wait_for(condition):
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_page_that_is_allowed_may_call_it(serve, base):
    origin = "https://friend.example"
    engine = FakeEngine(base.tokenizer)
    with serve(engine, allow_origin=(origin,), api_key="secret") as url:
        headers = (b"Host: localhost", b"Origin: " + origin.encode())
        asked = (
            b"Access-Control-Request-Method: POST",
            b"Access-Control-Request-Headers: authorization, content-type",
        )
        status, found, _ = talk(url, request("OPTIONS", "/v1/models", *headers, *asked))
        assert (status, found["access-control-allow-origin"]) == (204, origin)
        assert found["access-control-allow-headers"] == "authorization, content-type"
        found = check(talk(url, request("GET", "/v1/models", *headers)), 401, "API key")
        assert found["access-control-allow-origin"] == origin
        key = b"Authorization: Bearer secret"
        assert talk(url, request("GET", "/v1/models", *headers, key))[0] == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X: y", 401),
        (b"Authorization: Bearer secreT", 401),
        (b"Authorization: secret", 401),
        (b"Authorization: Bearer \xff\xfe", 401),
        (b"Authorization: Basic secret", 401),
        (b"Authorization: bearer secret", 200),
    ],
)
def test_the_key_is_asked_for_everywhere_but_for_the_page_and_health(serve, base, header, status):
    with serve(FakeEngine(base.tokenizer), api_key="secret") as url:
        for path in ("/metrics", "/v1/models"):
            answer = talk(url, request("GET", path, JSON[0], header))
            assert answer[0] == status
        assert answer[1].get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert talk(url, request("GET", "/health", JSON[0], header))[0] == 200


def test_metrics_are_prometheus_text(url):
    talk(url, request("POST", "/v1/chat/completions", *JSON, body=HELLO))
    status, headers, body = talk(url, request("GET", "/metrics", JSON[0]))
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    lines = body.decode().splitlines()
    assert "jaxgpt_slots 4.0" in lines
    responses = 'jaxgpt_responses_total{path="/v1/chat/completions",status="200"} '
    assert any(line.startswith(responses) for line in lines)
    assert "jaxgpt_compiles_total 0.0" in lines
