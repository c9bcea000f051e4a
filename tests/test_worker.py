"""The model's thread: together what waits, in turns, within the time, and nothing for those who have gone."""

import json
import socket
import threading
import time

import pytest

from oracle.metrics import Metrics
from oracle.sampling import SamplingParams
from oracle.worker import DISPLACED, FAILED, LATE, QueueFullError, Worker
from tests.serving import call, chat, connect, engine_saying, post, read_all, serving, until

LONG = SamplingParams(max_new_tokens=10_000, temperature=0)
SHORT = SamplingParams(max_new_tokens=3, temperature=0)
CHAT = "/v1/chat/completions"


def stream_of(text="α", **more) -> bytes:
    return post(CHAT, json.dumps({"messages": [{"role": "user", "content": text}], "stream": True, **more}).encode())


@pytest.fixture
def working(tokenizer):
    """A worker over one place whose model is held still until its gate opens."""
    engine = engine_saying(tokenizer, "ναι " * 100)
    worker = Worker(engine, 4, Metrics())
    worker.start()
    engine.network.gate.clear()
    yield worker, engine.network
    engine.network.gate.set()
    worker.stop()
    assert not worker.alive


def end_of(answer) -> str:
    while (piece := answer.next(20)) and not piece.end:
        pass
    return piece.end


def test_places_go_round_the_clients_and_not_by_the_order_of_arrival(working, monkeypatch):
    worker, network = working
    first = worker.ask([1, 9], SHORT, "greedy", 60)
    until(lambda: worker.running == 1)
    names = ["greedy 1", "greedy 2", "ben", "clio"]
    answers = [worker.ask([1, 10 + n], SHORT, name.split()[0], 60) for n, name in enumerate(names)]
    order: list[str] = []
    submit = worker.engine.submit
    monkeypatch.setattr(
        worker.engine, "submit", lambda prompt, p: order.append(names[prompt[1] - 10]) or submit(prompt, p)
    )
    network.gate.set()
    assert {end_of(answer) for answer in (first, *answers)} == {"length"}
    assert order == ["ben", "clio", "greedy 1", "greedy 2"]


def test_a_full_queue_says_when_to_come_again_and_makes_room_for_those_with_less(working):
    worker, _ = working
    worker.ask([1], LONG, "a", 60)
    until(lambda: worker.running == 1)
    waiting = [worker.ask([1], SHORT, "a", 60) for _ in range(4)]
    with pytest.raises(QueueFullError) as caught:
        worker.ask([1], SHORT, "a", 60)
    assert 1 <= caught.value.retry_after <= 60
    worker.ask([1], SHORT, "b", 60)
    assert end_of(waiting[-1]) == DISPLACED and worker.waiting == 4
    worker.ask([1], SHORT, "b", 60)
    with pytest.raises(QueueFullError):  # two each now
        worker.ask([1], SHORT, "b", 60)


def test_where_nobody_may_wait_free_places_are_given_all_the_same(working):
    worker, network = working
    worker.max_waiting = 0
    runs = worker.ask([1], SHORT, "a", 60)
    until(lambda: worker.running == 1)
    with pytest.raises(QueueFullError):
        worker.ask([1], SHORT, "b", 60)
    network.gate.set()
    assert end_of(runs) == "length" == end_of(worker.ask([1], SHORT, "b", 60))


def test_what_is_late_ends_whether_it_waits_or_runs(working):
    worker, network = working
    runs = worker.ask([1], LONG, "a", 0.05)
    until(lambda: worker.running == 1)
    waits = worker.ask([1], LONG, "b", 0.05)
    until(lambda: waits.deadline < time.monotonic())
    network.gate.set()
    assert end_of(runs) == LATE and end_of(waits) == LATE
    until(lambda: worker.running == worker.waiting == 0)


def test_a_step_that_fails_fails_its_requests_only(working, capfd):
    worker, network = working
    network.failing = True
    network.gate.set()
    assert end_of(worker.ask([1], LONG, "a", 60)) == FAILED
    assert worker.failure == "RuntimeError"
    network.failing = False
    assert end_of(worker.ask([1], SHORT, "a", 60)) == "length" and not worker.failure
    assert "ΜΥΣΤΙΚΟ" not in "".join(capfd.readouterr())


def test_stopping_ends_what_runs_and_what_waits(tokenizer):
    engine = engine_saying(tokenizer, "ναι " * 1000, delay=0.001)
    worker = Worker(engine, 4, Metrics())
    worker.start()
    answers = [worker.ask([1], LONG, "a", 60) for _ in range(3)]
    worker.stop()
    answers.append(worker.ask([1], LONG, "a", 60))  # which came a moment too late
    assert [end_of(answer) for answer in answers] == ["cancelled"] * 4


def test_waiting_requests_share_the_steps(tokenizer):
    engine = engine_saying(tokenizer, "ναι όχι ίσως", slots=4)
    with serving(engine) as running:
        engine.network.gate.clear()
        texts: list[str] = []
        ask = lambda: texts.append(chat(running, "α")[1]["choices"][0]["message"]["content"])  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: running.worker.running + running.worker.waiting == 8)
        engine.network.gate.set()
        for thread in threads:
            thread.join(20)
    assert texts == ["ναι όχι ίσως"] * 8 and engine.network.widest == 4


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_vanishes_costs_nothing_more(tokenizer, stream, begun):
    engine = engine_saying(tokenizer, "ναι " * 2000, delay=0.002)
    with serving(engine, max_new_tokens=512) as running:
        if not begun:
            engine.network.gate.clear()
        sock = connect(running)
        sock.sendall(stream_of(stream=stream))
        until(lambda: running.worker.running == 1)
        if begun and stream:
            assert sock.recv(10)
        sock.close()
        until(lambda: running.service.metrics._counts["vanished", ""] == 1)
        engine.network.gate.set()
        until(lambda: running.worker.running == 0)
        assert engine.network.steps < 400 and chat(running, "α", max_tokens=2)[0] == 200


def test_a_client_that_does_not_read_is_let_go(tokenizer):
    engine = engine_saying(tokenizer, "ναι " * 2000)
    with serving(engine, write_seconds=0.2, max_answer_tokens=10**6) as running:
        sock = connect(running)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.sendall(post("/v1/completions", b'{"prompt": "a", "stream": true, "max_tokens": 1000000, "logprobs": 20}'))
        until(lambda: running.worker.running == 0 and running.service.metrics._counts["vanished", ""] == 1)
        sock.close()
        assert chat(running, "α", max_tokens=2)[0] == 200


def test_statuses_of_what_did_not_work_out(tokenizer):
    engine = engine_saying(tokenizer, "ναι " * 100)
    with serving(engine, max_waiting=1, answer_seconds=0.5) as running:
        engine.network.gate.clear()
        first, second = connect(running), connect(running)
        first.sendall(stream_of())
        until(lambda: running.worker.running == 1)
        second.sendall(stream_of(stream=False))
        until(lambda: running.worker.waiting == 1)
        status, headers, body = call(running, "POST", CHAT, {"messages": [{"role": "user", "content": "α"}]})
        assert status == 429 and int(headers["retry-after"]) >= 1 and json.loads(body)["error"]["code"] == "queue_full"
        assert call(running, "GET", "/health")[0] == 200  # while the model stands still
        until(lambda: min(a.deadline for a in running.worker._waiting) < time.monotonic())
        engine.network.gate.set()
        answer = read_all(first)  # whose first token was on its way
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"finish_reason": "length"' in answer
        answer = read_all(second)
        assert answer.startswith(b"HTTP/1.1 504 ") and b"Retry-After" in answer
        first.close()
        second.close()
        engine.network.failing = True
        assert chat(running, "α")[0] == 500
        status, _, body = call(running, "GET", "/health")
        assert status == 503 and json.loads(body)["status"] == "failing"


def test_an_answer_cut_by_the_clock_is_given_as_far_as_it_came(tokenizer):
    engine = engine_saying(tokenizer, "ναι " * 2000, delay=0.01)
    with serving(engine, answer_seconds=0.3, max_new_tokens=512) as running:
        status, answer = chat(running, "α")
        choice = answer["choices"][0]
        assert status == 200 and choice["finish_reason"] == "length" and choice["message"]["content"].startswith("ναι ")
        engine.network.failing = False
        with connect(running) as sock:
            sock.sendall(stream_of())
            until(lambda: engine.network.steps > 5)
            sock.recv(10)
            engine.network.failing = True
            told = read_all(sock)
        assert b'data: {"error": ' in told and b"[DONE]" not in told and b"the model failed" in told


def test_metrics_count_what_happened(tokenizer):
    with serving(engine_saying(tokenizer, "ναι")) as running:
        chat(running, "α")
        call(running, "GET", "/%6eowhere")
        for _ in range(200):  # a request is counted after its answer has left
            text = call(running, "GET", "/metrics")[2].decode()
            if 'status="404"' in text and 'status="200"' in text.split("generated", 1)[0]:
                break
            time.sleep(0.05)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['nanooracle_requests_total{path="/v1/chat/completions",status="200"}'] == "1"
    assert lines['nanooracle_requests_total{path="other",status="404"}'] == "1"
    assert lines["nanooracle_generated_tokens_total"] == str(len(running.service.served.tokenizer.encode("ναι")))
    assert lines['nanooracle_first_token_seconds_bucket{le="+Inf"}'] == "1" == lines["nanooracle_answer_seconds_count"]
    assert lines["nanooracle_requests_running"] == "0" and text.endswith("\n")
