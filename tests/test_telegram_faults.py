"""The bot when Telegram, the network, the model or the process fails; and its token, which must show nowhere."""

import asyncio
import contextlib
import io
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given
from hypothesis import strategies as st

import telegram_bot
from oracle.cli import UsageError, UserError
from oracle.telegram_backend import NoAnswerError, Remote, Wish
from oracle.telegram_secret import HIDDEN, Hider, read_token
from oracle.telegram_split import split, units
from tests.fake_telegram import FAULTS, TOKEN, FakeModels, FakeTelegram, QuietServer, wait_until
from tests.runs import ROOT
from tests.serving import engine_saying, serving
from tests.test_telegram import Bot
from tests.torture_telegram import MARK, Process, torture


def test_every_message_is_answered_once_though_calls_fail(tmp_path):
    def draw(method, count):
        """Every third call fails, each time in another way."""
        kinds = (*FAULTS, "409") if method == "getUpdates" else FAULTS
        return kinds[count // 3 % len(kinds)] if count % 3 == 1 else ""

    async def run(fake):
        async with Bot(fake, tmp_path, slots=8, waiting=100, call_seconds=0.3) as bot:
            said = [(1 + n % 12, f"μήνυμα {n}.") for n in range(36)]
            for chat, text in said:
                fake.say(chat, text)
            await bot.until(lambda: all(fake.holding(chat, text) for chat, text in said), 25)
            return [fake.holding(chat, text) for chat, text in said]

    with FakeTelegram(draw=draw, hang_seconds=0.5, retry_after=0) as fake:
        assert asyncio.run(run(fake)) == [1] * 36
        lost = sum(method == "sendMessage" and fault == "lost" for _, method, _, fault in fake.calls)
        for method in ("sendMessage", "editMessageText"):
            assert {fault for _, called, _, fault in fake.calls if called == method} == {"", *FAULTS}
        assert sum("μήνυμα" not in text for chat in fake.chats for text in fake.texts(chat)) == lost


def test_killed_in_the_middle_and_every_message_answered_once(tmp_path):
    result = torture(tmp_path, messages=10, chats=5, faults=0.05, kills=1, seed=3, patience=20)
    assert result.answers == [1] * 10
    assert result.strays <= result.excused
    assert TOKEN not in result.output and MARK not in result.output


def test_it_waits_for_a_service_that_is_down_and_can_be_stopped_meanwhile(tmp_path):
    async def run(fake):
        async with Bot(fake, tmp_path) as bot:
            await asyncio.sleep(0.2)
            assert not bot.running.done()

    with FakeTelegram() as fake:
        pass
    asyncio.run(asyncio.wait_for(run(fake), 3))


def test_a_429_is_waited_out(tmp_path):
    async def run(fake):
        async with Bot(fake, tmp_path) as bot:
            fake.say(7, "γεια")
            await bot.until(lambda: fake.holding(7, "γεια!"))

    with FakeTelegram(
        draw=lambda method, n: "429" if method == "sendMessage" and n == 0 else "", retry_after=1
    ) as fake:
        asyncio.run(run(fake))
        first, second = [when for when, method, _, _ in fake.calls if method == "sendMessage"]
        assert second - first >= 1


def test_a_message_its_user_deleted_is_no_failure(tmp_path):
    async def run(fake):
        async with Bot(fake, tmp_path) as bot:
            bot.backend.let_go.clear()
            fake.say(7, "γεια")
            await bot.until(lambda: fake.texts(7))
            fake.chats[7].clear()
            bot.backend.let_go.set()
            await bot.until(lambda: bot.state.offset and not bot.state.unfinished())
            assert len(bot.state.chat(7).history) == 2

    with FakeTelegram() as fake:
        asyncio.run(run(fake))


@pytest.fixture
def hidden():
    """What every logger says at DEBUG, with the token hidden."""
    make, hooks = logging.getLogRecordFactory(), (sys.excepthook, sys.unraisablehook, threading.excepthook)
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    names = ["", *(n for n, known in logging.root.manager.loggerDict.items() if isinstance(known, logging.Logger))]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    Hider(TOKEN).install()
    yield shown
    logging.getLogger().removeHandler(handler)
    logging.setLogRecordFactory(make)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_no_logger_shows_the_token(tmp_path, hidden):
    async def run(fake):
        async with Bot(fake, tmp_path, call_seconds=0.3) as bot:
            for n in range(len(FAULTS)):
                fake.say(n + 1, "γεια")
            await bot.until(lambda: all(fake.holding(n + 1, "γεια!") for n in range(len(FAULTS))))
            asyncio.get_running_loop().call_exception_handler({"message": f"x {TOKEN}", "exception": ValueError(TOKEN)})
            fake._do = lambda method, values: (401, {"ok": False, "description": "Unauthorized"})
            await asyncio.wait_for(bot.life.stopping.wait(), 5)

    orders = {"sendMessage": iter(FAULTS), "getUpdates": iter(("500", "bad_json", "drop"))}
    draw = lambda method, n: next(orders.get(method, iter(())), "")  # noqa: E731
    with FakeTelegram(draw=draw, hang_seconds=0.5, retry_after=0) as fake, pytest.raises(UserError) as caught:
        asyncio.run(run(fake))
    try:
        raise ValueError(f"https://api.telegram.org/bot{TOKEN}/getMe")
    except ValueError:
        logging.getLogger("some.library").exception("failed for %s", TOKEN)
    text = hidden.getvalue() + str(caught.value)
    assert text.count(HIDDEN) > 20  # the libraries did log addresses
    assert TOKEN not in text and TOKEN.partition(":")[2] not in text


def test_the_process_itself_shows_no_token_though_every_logger_says_all_it_has(tmp_path):
    orders = {"sendMessage": iter(FAULTS), "getUpdates": iter(("409", "rubbish"))}
    draw = lambda method, n: next(orders.get(method, iter(())), "")  # noqa: E731
    with (
        FakeTelegram(draw=draw, hang_seconds=1.5, retry_after=0) as fake,
        FakeModels() as models,
        Process(tmp_path, fake, models, debug=True) as bot,
    ):
        for n in range(1, 5):
            fake.say(n, "γεια")
        assert wait_until(lambda: all(fake.holding(n, "γεια!") for n in range(1, 5)), 120), bot.log.read_text()[-1000:]
        assert TOKEN.encode() not in bot.command_line()
        fake._do = lambda method, values: (401, {"ok": False, "description": f"Unauthorized: {TOKEN}"})
        fake.say(9, "γεια")
        assert bot.running.wait(60) == 1
    said = bot.log.read_text()
    assert "does not know this token" in said and said.count(HIDDEN) > 20
    # That all of them spoke: what was sent, the connection, the library, asyncio.
    assert all(trace in said for trace in ("sendMessage", "connect_tcp", "HTTP Request: POST", "selector"))
    assert TOKEN not in said and TOKEN.partition(":")[2] not in said


def test_errors_that_nobody_catches_hide_the_token_too(tmp_path):
    code = """
import asyncio, os, threading
from oracle.telegram_secret import Hider, read_token
token = read_token("")
Hider(token).install()
threading.Thread(target=lambda: int(f"https://x/bot{token}/")).start()
class Bad:
    def __del__(self): raise ValueError(token)
Bad()
print(open(f"/proc/{os.getpid()}/cmdline").read())
raise RuntimeError(f"bot{token}".replace(":", "%3A"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TELEGRAM_BOT_TOKEN": TOKEN},
        capture_output=True,
        text=True,
    )
    assert done.stderr.count("Traceback") == 3 and done.stderr.count(HIDDEN) >= 3
    assert TOKEN.partition(":")[2] not in done.stdout + done.stderr


def test_the_token_comes_from_a_private_place(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_token(str(path), {})
    assert read_token(str(path), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == TOKEN
    path.chmod(0o600)
    assert read_token(str(path), {}) == TOKEN
    path.write_bytes(b"\xef\xbb\xbf" + TOKEN.encode() + b"\r\n")  # as Windows' editor saves it
    assert read_token(str(path), {}) == TOKEN
    assert read_token("", {"TELEGRAM_BOT_TOKEN": TOKEN}) == TOKEN
    with pytest.raises(UserError, match="No such file"):
        read_token(str(tmp_path / "none"), {})
    with pytest.raises(UserError, match="@BotFather"):
        read_token("", {})
    with pytest.raises(UserError, match="no Telegram token") as caught:
        read_token("", {"TELEGRAM_BOT_TOKEN": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("argument", [TOKEN, f"--token={TOKEN}", f"--token_file={TOKEN}"])
def test_a_token_on_the_command_line_is_refused_unseen(argument):
    with pytest.raises(UsageError, match="revoke") as caught:
        telegram_bot.main([argument])
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("arguments, says", [
    ([], "name a run directory"),
    (["--api_url=http://127.0.0.1:9/v1"], "start the server first"),
    (["--api_url=http://127.0.0.1:9/v1", "--api_model=m"], "start the server first"),
    (["--api_url=127.0.0.1:9/v1"], "no address of a server"),
    (["--api_url=http://[/v1"], "no address of a server"),
    (["--api_url=http://127.0.0.1:x/v1"], "no address of a server"),
    (["--api_url=http://127.0.0.1:9/v1", "--bot_api=http://example.org"], "unencrypted"),
    (["--api_url=http://127.0.0.1:9/v1", "--bot_api=HTTP://example.org"], "unencrypted"),
    (["--api_url=http://127.0.0.1:9/v1", "--bot_api=api.telegram.org"], "bot_api='api.telegram.org': no address"),
    (["--api_url=http://127.0.0.1:9/v1", "--bot_api="], "no address of a server"),
    (["--api_url=http://127.0.0.1:9/v1", "--allow=me"], "such as 1,2"),
    (["--api_url=http://127.0.0.1:9/v1", "--alow=5"], "did you mean allow"),
])  # fmt: skip
def test_mistakes_are_one_sentence(arguments, says, monkeypatch):
    monkeypatch.setattr(Hider, "install", lambda self: None)
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    with pytest.raises(UserError, match=says):
        telegram_bot.main(arguments)


def test_settings_of_completions_are_warned_about(monkeypatch, capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("num_beams = 3\n")
    monkeypatch.setattr(Hider, "install", lambda self: None)
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    with FakeModels() as models:
        telegram_bot.main([str(config), f"--api_url={models.address}", "--dry_run"])
    shown = capsys.readouterr()
    assert "num_beams: without effect" in shown.err and "would answer as echo" in shown.out


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("telegram_bot.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="requirements-serve"):
        telegram_bot.main(["--api_url=http://127.0.0.1:9/v1"])


WISH = Wish(50, 0.5, 1)
GOOD = b'data: {"choices": [{"delta": {"content": "\xce\xb1"}}]}\n\ndata: [DONE]\n\n'


def served(*replies):
    """A server that gives each reply once, (status, body), and the last one for ever; the bodies it was asked with."""
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = replies[min(len(asked), len(replies)) - 1]
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = QuietServer(Handler)
    return server, f"{server.address}/v1", asked


@pytest.mark.parametrize("body", [b"", b"data: {", b"data: []\n\n", b'data: {"error": {}}\n\n', GOOD[:-16], b"<html>"])
def test_a_server_that_answers_rubbish_is_no_answer(body):
    server, address, _ = served((200, body))
    with pytest.raises(NoAnswerError):
        list(Remote(address, "m", 2).answer([{"role": "user", "content": "γ"}], WISH, lambda: False))
    server.end()


def test_a_busy_server_is_asked_again_and_a_full_context_loses_its_oldest_turns():
    server, address, asked = served((503, b""), (400, b"{}"), (429, b""), (413, b""), (200, GOOD))
    messages = [{"role": role, "content": f"ν{n}"} for n, role in enumerate(("user", "assistant") * 2 + ("user",))]
    assert "".join(Remote(address, "m", 2).answer(messages, WISH, lambda: False)) == "α"
    assert [body.count(b"role") for body in asked] == [5, 5, 3, 3, 1]
    assert "ν4".encode() in asked[-1]  # not escaped: a letter takes two bytes of the server's limit, not six
    server.end()
    server, address, asked = served((503, b""))
    with pytest.raises(NoAnswerError, match="503"):
        list(Remote(address, "m", 2).answer(messages, WISH, lambda: False))
    server.end()


def test_the_remote_model_names_itself(caplog):
    with FakeModels() as models:
        assert Remote(models.address, "", 2).name == Remote(models.address, "echo", 2).name == "echo"
        assert not caplog.text
        assert Remote(models.address, "gpt-9", 2).name == "gpt-9" and "models: echo" in caplog.text
        with pytest.raises(UserError, match="status 404"):
            Remote(models.address[:-2] + "v2", "", 2)
        assert Remote(models.address[:-2] + "v2", "unlisted", 2).name == "unlisted"


def test_a_base_model_behind_an_address_is_refused(tokenizer):
    with serving(engine_saying(tokenizer, "ναι", chat=False)) as running:
        for model in ("", "tiny"):
            with pytest.raises(UserError, match="tiny is a base model"):
                Remote(f"{running.address}/v1", model, 2)


def sending(*pieces, pause=0.0, listed=False):
    """An address at which each question gets the pieces, the last of them for ever; so does who asks for a list if `listed`."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=send, args=(connection,), daemon=True).start()

    def send(connection):
        with contextlib.suppress(OSError), connection:
            if connection.recv(1 << 16).startswith(b"GET") and not listed:
                connection.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")
                return
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            for piece in itertools.chain(pieces, itertools.repeat(pieces[-1])):
                connection.sendall(piece)
                time.sleep(pause)

    threading.Thread(target=serve, daemon=True).start()
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


EVENT = GOOD.partition(b"\n\n")[0] + b"\n\n"


@pytest.mark.parametrize("pieces, pause, text", [
    ([EVENT * 100], 0.0, 1),  # words without end
    ([EVENT, b": still here\n"], 0.02, 1),  # one, and then nothing but signs of life
    ([EVENT, b"x"], 0.02, 1),  # a line without end
    ([b": still here\n\n"], 0.02, 0),
    ([b'data: {"choices": []}\n\n'], 0.02, 0),
    ([b"x" * 65536], 0.0, 0),
])  # fmt: skip
def test_a_server_that_never_ends_is_ended(pieces, pause, text):
    listening, address = sending(*pieces, pause=pause)
    remote = Remote(address, "m", 0.5)
    start, said = time.monotonic(), ""
    with contextlib.nullcontext() if text else pytest.raises(NoAnswerError):
        for piece in remote.answer([{"role": "user", "content": "γ"}], WISH, lambda: False):
            said += piece
    listening.close()
    assert time.monotonic() - start < 3 and bool(said) == bool(text) and len(said) <= 20 * WISH.max_tokens + 100


def test_a_list_of_models_that_never_ends_is_ended():
    listening, address = sending(b" " * 65536, listed=True)
    with pytest.raises(UserError, match="malformed"):
        Remote(address, "", 2)
    listening.close()


def test_what_a_server_says_is_there_at_once():
    """Without chunks in the protocol, too; and a question that nobody waits for any more is given up."""
    listening, address = sending(EVENT, b": x\n", pause=0.05)
    pieces = Remote(address, "m", 30).answer([{"role": "user", "content": "γ"}], WISH, lambda: bool(got))
    got: list[str] = []
    start = time.monotonic()
    got.append(next(pieces))
    assert list(pieces) == [] and time.monotonic() - start < 2
    listening.close()


@given(st.text(st.sampled_from("αβ γ.\n;🙂\u0301"), max_size=80), st.integers(2, 20))
def test_split_loses_nothing_but_blanks(text, limit):
    parts = split(text, limit)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part == part.strip() and 0 < units(part) <= limit for part in parts)


def test_split_prefers_paragraphs_then_sentences_then_words():
    assert split("α β. γ\n\nδ ε", 9) == ["α β. γ", "δ ε"]
    assert split("α β; γδεζ", 6) == ["α β;", "γδεζ"]
    assert split("αβγδ εζη", 7) == ["αβγδ", "εζη"]
    assert split("αβγε\u0301", 4) == ["αβγ", "ε\u0301"]
    assert split("🙂🙂🙂", 4) == ["🙂🙂", "🙂"]
