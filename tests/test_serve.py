"""The command: what it says, what it refuses, and how it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

import serve
from oracle.cli import UserError
from tests.runs import ROOT
from tests.serving import call, connect, engine_saying, post, read_all, serving, until
from tests.test_export import make_run


@pytest.fixture(scope="module")
def base(tmp_path_factory, prepared):
    return make_run(tmp_path_factory.mktemp("out") / "demo", prepared.tokenizer_path, prepared.folder)


@contextmanager
def started(*arguments: str, environment=None):
    """`serve.py` in a process of its own: the process and its address."""
    command = [sys.executable, "serve.py", *arguments, "--port=0", "--threads=1", "--device=cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )  # fmt: skip
    try:
        said = ""
        assert process.stdout and process.stderr
        while not (address := re.search(r"(http://\S+:\d+)/ is the page", said)):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        yield process, address[1], said
    finally:
        process.kill()
        process.communicate()


def ask(address, path, value=None, key=""):
    data = None if value is None else json.dumps(value).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}{path}", data, headers), timeout=20) as answer:
        return json.loads(answer.read())


def test_a_base_model_from_the_command_line_to_sigterm(base):
    """It continues text, says what it is, keeps its key to itself, finishes what it began and ends with status 0."""
    with started(str(base), environment={serve.KEY_VARIABLE: "geheim-1"}) as (process, address, said):
        assert "demo (a base model, which continues texts and does not answer; context 64 tokens)" in said
        (info,) = ask(address, "/v1/models", key="geheim-1")["data"]
        assert info["id"] == "demo" and not info["chat"] and info["context_length"] == 64
        value = {"prompt": "Το λιμάνι", "max_tokens": 9, "temperature": 0}
        texts = {ask(address, "/v1/completions", value, "geheim-1")["choices"][0]["text"] for _ in range(2)}
        assert len(texts) == 1
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(address, "/v1/completions", value)
        assert ask(address, "/health")["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0 and "stopping" in err
        assert "geheim" not in said + out + err and "λιμάνι" not in said + out + err


def test_an_answer_in_progress_may_end_when_the_server_stops(tokenizer):
    engine = engine_saying(tokenizer, "ναι " * 50, delay=0.002)
    with serving(engine) as running:
        sock = connect(running)
        sock.sendall(post("/v1/completions", b'{"prompt": "a", "stream": true}'))
        until(lambda: running.worker.running == 1)
    assert read_all(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    sock.close()


def test_dry_run_and_warnings(base, capsys):
    serve.main([str(base), "--dry_run", "--gguf=x.gguf", "--device=cpu"])
    shown = capsys.readouterr()
    assert "would serve demo (a base model" in shown.out and "no effect without engine=llama" in shown.err


def test_a_missing_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such config file or run directory"):
        serve.main([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="did you mean"):
        serve.main(["--max_wait=3"])


def test_keys(tmp_path):
    assert serve.read_keys("", {}) == frozenset()
    path = tmp_path / "keys"
    path.write_text("one\n\n two \n")
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        serve.read_keys(str(path), {})
    path.chmod(0o600)
    assert serve.read_keys(str(path), {serve.KEY_VARIABLE: "three"}) == {"one", "two", "three"}
    path.write_text("\n")
    with pytest.raises(UserError, match="no key in it"):
        serve.read_keys(str(path), {})


def test_the_rate_is_that_of_the_client_a_trusted_proxy_names(tokenizer):
    with serving(engine_saying(tokenizer, "ναι"), rate_per_minute=3, trust_proxy=True) as running:

        def status(seen):
            return call(running, "POST", "/v1/completions", {}, {"X-Forwarded-For": seen})[0]

        assert [status("6.6.6.6, 10.0.0.1"), status("10.0.0.1"), status("10.0.0.2")] == [200, 429, 200]
    with serving(engine_saying(tokenizer, "ναι"), rate_per_minute=3) as running:
        assert [status("10.0.0.1"), status("10.0.0.2")] == [200, 429]  # not trusted: both are this machine
