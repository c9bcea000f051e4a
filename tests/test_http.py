"""The server against clients that send rubbish, send slowly, send too much, come in crowds, or vanish."""

import json
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.cli import UserError
from oracle.wire import RequestError, body_length, parse_head
from tests.serving import call, chat, connect, engine_saying, post, raw, read_all, serving, until

ASK = json.dumps({"messages": [{"role": "user", "content": "α"}]}).encode()
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running(tokenizer):
    engine = engine_saying(tokenizer, "ναι", slots=2)
    with serving(engine, read_seconds=0.4, idle_seconds=0.4, max_body_bytes=2000, max_head_bytes=600) as running:
        yield running
        assert chat(running, "ακόμη;")[0] == 200  # whatever was done to it


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 2001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999999999999\r\n\r\n" + b"x" * 100_000, 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 700 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 100_000, 431),
        (b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"PUT / HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
        (b"OPTIONS /v1/chat/completions HTTP/1.1\r\nOrigin: http://evil\r\nConnection: close\r\n\r\n", 405),
        (b"\r\n\r\nGET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health?probe=1 HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
        (post(CHAT, b"{broken"), 400),
        (post(CHAT, ASK), 200),
        (post(CHAT, b"\xff" * 10), 400),
        (post(CHAT, ASK).replace(b"application/json", b"text/plain"), 415),
    ],
)  # fmt: skip
def test_every_request_has_its_answer(running, data, status):
    answer = raw(running, data)
    assert status_of(answer) == status
    if status >= 400:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["message"] and set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),  # says nothing
        (b"GET /health HT", 408),  # half a head
        (post(CHAT, ASK)[:-5], 408),  # half a body
    ],
)
def test_who_stops_sending_is_let_go(running, sent, status):
    with connect(running) as sock:
        sock.sendall(sent)
        assert status_of(read_all(sock)) == status


@pytest.mark.parametrize("data", [b"GET /" + b"x" * 200, post(CHAT, ASK + b" " * 200)[:-100]])
def test_a_byte_now_and_then_does_not_hold_a_connection(running, data):
    """Each byte comes well within the idle timeout; only the whole takes too long."""
    with connect(running) as sock:
        sock.sendall(data[:-60])
        for byte in data[-60:]:  # 0.6 seconds; 0.4 are allowed
            sock.send(bytes([byte]))
            time.sleep(0.01)
        assert status_of(read_all(sock)) == 408


def test_a_request_cut_off_is_told_and_a_vanished_one_is_not_missed(running):
    for data in (b"GET /health HT", post(CHAT, ASK)[:-5]):
        with connect(running) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert status_of(read_all(sock)) == 400
        connect(running).close()


def test_connections_are_kept_and_requests_may_follow_at_once(running):
    with connect(running) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n\r\n" * 2 + post("/nothing", b"{}"))
        answers = read_all(sock)
    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]


def test_a_large_body_may_ask_first(running):
    with connect(running) as sock:
        head, _, body = post(CHAT, ASK, "Expect: 100-continue").partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert status_of(read_all(sock)) == 200


def test_head_requests_have_no_body(running):
    answer = raw(running, b"HEAD /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 200 and answer.endswith(b"\r\n\r\n") and b"Content-Length: " in answer


def test_the_page_has_a_strict_policy_and_nothing_from_elsewhere(running):
    status, headers, body = call(running, "GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    text = body.decode()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert " style=" not in text and " onclick=" not in text and "innerHTML" not in text
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert not any(name.startswith("access-control") for name in headers)


def test_a_crowd_is_told_to_come_again_and_others_are_served_afterwards(tokenizer):
    with serving(engine_saying(tokenizer, "ναι"), max_connections=4) as running:
        holders = [connect(running) for _ in range(4)]
        until(lambda: running.server.connections == 4)
        answer = raw(running, b"GET /health HTTP/1.1\r\n\r\n")
        assert status_of(answer) == 503 and b"Retry-After: 1" in answer
        for sock in holders:
            sock.close()
        until(lambda: running.server.connections == 0)
        assert chat(running, "α")[0] == 200


def test_hundreds_of_quick_connections_leave_nothing_behind(running):
    before = threading.active_count()
    for _ in range(300):
        connect(running).close()
    until(lambda: running.server.connections == 0)
    assert chat(running, "α")[0] == 200
    until(lambda: threading.active_count() <= before + 1)


def test_one_address_may_hold_a_quarter_of_the_places(running):
    assert running.server._share("127.0.0.1") == 64 and running.server._share("::1") == 64
    assert running.server._share("192.0.2.7") == 16 and running.server._share("fe80::1%eth0") == 16


def test_a_failure_of_ours_is_told_without_a_word_of_the_users(running, capfd, monkeypatch):
    def fail(request, exchange):
        raise ValueError(f"cannot handle {request.body.decode()}")

    monkeypatch.setitem(running.service.routes, "/broken", {"POST": fail})
    answer = raw(running, post("/broken", "ΜΥΣΤΙΚΟ".encode()))
    shown = capfd.readouterr()
    assert status_of(answer) == 500 and "ValueError" in shown.err and "in fail" in shown.err
    assert "ΜΥΣΤΙΚΟ" not in shown.out + shown.err + answer.decode()


def test_a_port_that_is_taken_is_one_sentence(running, tokenizer):
    with (
        pytest.raises(UserError, match="name another --host or --port"),
        serving(engine_saying(tokenizer, ""), port=running.server.address[1]),
    ):
        pass


@settings(max_examples=200, deadline=None)
@given(head=st.binary(max_size=80) | st.text("GET /: HTP1.\r\nhost-lengt", max_size=80).map(str.encode))
def test_any_bytes_are_a_head_or_refused(head):
    try:
        method, target, version, fields = parse_head(head)
    except RequestError as error:
        assert error.status == 400
    else:
        assert method and target.startswith("/") and version in (0, 1)
        assert not any(set("\r\n\0") & set(name + value) for name, value in fields.items())


@pytest.mark.parametrize("text", ["", "+1", " 1", "1,1", "0x1", "١", "1" * 19])
def test_lengths_that_two_readers_could_read_differently(text):
    with pytest.raises(RequestError):
        body_length("POST", {"content-length": text}, 100)
