"""`jaxgpt serve` as a process: it answers, and when told to stop, it does so in order."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from jaxgpt.commands import serve as script
from jaxgpt.errors import ConfigError
from jaxgpt.serving.config import ServingConfig
from jaxgpt.training.checkpoint import save_model

LONG = {"prompt": "Who", "max_tokens": 1500, "ignore_end_of_text": True, "stream": True}


@pytest.fixture(scope="module")
def folder(base, random_params, tmp_path_factory):
    """A model that can write for seconds."""
    config = replace(base.config, context_length=2048, num_layers=1)
    model = replace(
        base,
        config=config,
        params=random_params(config),
        train_config=replace(base.train_config, model=config),
    )
    save_model(tmp_path_factory.mktemp("serve") / "tiny", model)
    return tmp_path_factory.getbasetemp() / "serve0" / "tiny"


@contextmanager
def serving(folder, *flags):
    """A server's process and its port."""
    command = [sys.executable, "-m", "jaxgpt", "serve", folder, "--port", "0", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    try:
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+) serves tiny", line)
        assert found, line + process.stderr.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


@contextmanager
def asked(port):
    """The response to `LONG`, not yet read."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(LONG), headers)
        with connection.getresponse() as response:
            yield response


def refusal(port):
    """The first response that is not 200, after those that are."""
    while True:
        with asked(port) as response:
            if response.status != 200:
                return response.status, response.headers, json.load(response)["error"]


@pytest.mark.whole_run
def test_a_signal_lets_it_finish_and_leave_with_0(folder):
    with serving(folder, "--slots", "2") as (process, port), asked(port) as stream:
        assert stream.readline().startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        status, headers, error = refusal(port)
        assert (status, error["type"]) == (503, "overloaded_error")
        assert int(headers["retry-after"]) > 0
        assert stream.read().endswith(b"data: [DONE]\n\n")
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.whole_run
def test_what_is_not_done_in_time_ends_with_an_error(folder):
    flags = ("--slots", "1", "--drain-seconds", "0")
    with serving(folder, *flags) as (process, port), asked(port) as stream:
        stream.readline()
        process.send_signal(signal.SIGINT)
        *_, error, done, _ = stream.read().split(b"\n\n")
        assert json.loads(error[6:])["error"]["message"].startswith("the server is stopping")
        assert done == b"data: [DONE]"
        assert process.wait(30) == 0


@pytest.mark.whole_run
def test_a_second_signal_is_not_waited_for(folder):
    with serving(folder, "--slots", "1") as (process, port), asked(port) as stream:
        stream.readline()
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.1)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "port is 70000; it must be from 0 to 65,535"),
        (["--slots", "0"], "slots is 0; it must be from 1"),
        (["--api-key", "a b"], "api_key has a character that no header can carry"),
        (["--allow-origin", "example.org"], "it must be * or like https://example.org"),
        (["--request-timeout", "0"], "request_timeout is 0.0; it must be from 0.1"),
        (["--host", "no.such.host.invalid"], "cannot be listened at"),
        (["--name", "a\nb"], "it must be printable"),
    ],
)
def test_bad_input_is_one_line(flags, message, capsys):
    with pytest.raises((ConfigError, SystemExit)) as found:
        script.main(["runs/none", *flags])
    assert message in str(found.value) + capsys.readouterr().err


@pytest.mark.parametrize("name", ["uvicorn", "starlette"])
def test_what_is_missing_is_named(name, monkeypatch):
    for module in ("jaxgpt.serving.listen", "jaxgpt.serving.app"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in [module for module in sys.modules if module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"serving needs {name}, which is not installed: "):
        script.main(["runs/none"])


def test_where_anybody_may_call_it_says_so(capsys):
    script.warn_of_openness(ServingConfig(host="127.0.0.1"), loopback=True)
    script.warn_of_openness(ServingConfig(host="0.0.0.0", api_key="k"), loopback=False)
    assert capsys.readouterr().err == ""
    script.warn_of_openness(ServingConfig(host="0.0.0.0"), loopback=False)
    assert capsys.readouterr().err.startswith("warning: host 0.0.0.0 is reached from other")


def test_a_model_chats_if_it_was_made_to(base):
    assert script.find_encoder(base, "", 0) is None
    with pytest.warns(UserWarning, match="trained on texts alone"):
        assert script.find_encoder(base, "chat", 0) is not None
    tuned = replace(base, task={"kind": "instructions", "template": "phi"})
    assert script.find_encoder(tuned, "", 0).template.after == "<|end|>\n"
