"""The bot against Telegram's API on loopback: what people see."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import stat
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.cli import UserError
from oracle.ratelimit import Buckets
from oracle.telegram_api import Api
from oracle.telegram_backend import NoAnswerError
from oracle.telegram_line import Line
from oracle.telegram_loop import Life
from oracle.telegram_pace import Pace, Turns
from oracle.telegram_state import State
from oracle.telegram_talk import Manners, Talk
from oracle.telegram_update import Me, number_of, understand
from tests.fake_telegram import TOKEN, FakeTelegram, _No

MANNERS = Manners(frozenset(), 200, 50, 100, 0.5, 60, 1000, 100_000)


class Echo:
    """A model that repeats what it is told, when `let_go` says so."""

    name = "echo-chat"

    def __init__(self, answer=lambda text: f"απάντηση: {text}!"):
        self.answer_of, self.seen, self.let_go = answer, [], threading.Event()
        self.let_go.set()

    def count(self, text):
        return len(text.split())

    def answer(self, messages, wish, cancelled):
        self.seen.append((messages, wish))
        for word in self.answer_of(messages[-1]["content"]).split(" "):
            yield f"{word} "
            while not self.let_go.wait(0.02):
                if cancelled():
                    return

    def close(self):
        pass


class Quick(Pace):
    """No limits, but 429s are obeyed."""

    def __init__(self):
        super().__init__()
        self._all = Turns(1e6, 1e6, time.monotonic)
        self._chats = self._groups = Buckets(lambda: Turns(1e6, 1e6, time.monotonic))


class Bot:
    """A bot in this event loop; `async with` starts and stops it as SIGTERM does."""

    def __init__(
        self, fake, folder, backend=None, manners=MANNERS, record=None, slots=2, waiting=16, grace=5, pace=Quick, **life
    ):
        self.fake, self.backend = fake, backend or Echo()
        self.state = State(folder / "bot.sqlite")
        self.api = Api(TOKEN, fake.address, 1, life.get("call_seconds", 2.0), first_pause=0.02)
        self.api.pace = pace()
        talk = Talk(self.api, self.state, self.backend, Line(slots, waiting, 3), manners, record)
        self.life = Life(self.api, self.state, talk, grace, life.get("delete_webhook", False))

    async def __aenter__(self):
        self.running = asyncio.ensure_future(self.life.run())
        return self

    async def __aexit__(self, *error):
        self.life.stopping.set()
        try:
            await self.running
        finally:
            self.state.close()

    async def until(self, condition, seconds=10):
        for _ in range(int(seconds / 0.01)):
            if condition() or self.running.done():
                break
            await asyncio.sleep(0.01)
        assert condition(), self.fake.chats


def scenario(test):
    """Run an async test."""

    def run(tmp_path):
        with FakeTelegram() as fake:
            asyncio.run(asyncio.wait_for(test(fake, tmp_path), 30))

    run.__name__ = run.__qualname__ = test.__name__
    return run


@scenario
async def test_a_message_is_answered_and_the_conversation_goes_on(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(7, "καλημέρα")
        await bot.until(lambda: fake.holding(7, "απάντηση: καλημέρα!"))
        fake.say(7, "τι κάνεις;")
        await bot.until(lambda: fake.holding(7, "τι κάνεις;!"))
        said = [m["content"] for m in bot.backend.seen[1][0]]
        assert said == ["καλημέρα", "απάντηση: καλημέρα!", "τι κάνεις;"]
        fake.say(7, "/reset")
        await bot.until(lambda: "ξεχάστηκε" in fake.texts(7)[-1])
        fake.say(7, "πάλι")
        await bot.until(lambda: fake.holding(7, "πάλι!"))
        assert len(bot.backend.seen[2][0]) == 1
    assert stat.S_IMODE((folder / "bot.sqlite").stat().st_mode) == 0o600


@scenario
async def test_histories_survive_a_restart_and_are_trimmed_by_tokens(fake, folder):
    manners = dataclasses.replace(MANNERS, history_tokens=7)
    async with Bot(fake, folder, manners=manners) as bot:
        for text in ("ένα", "δύο", "τρία"):
            fake.say(7, text)
            await bot.until(lambda text=text: fake.holding(7, f"{text}!"))
    async with Bot(fake, folder, manners=manners) as bot:
        fake.say(7, "τέσσερα")
        await bot.until(lambda: fake.holding(7, "τέσσερα!"))
        assert [m["content"] for m in bot.backend.seen[0][0]][::2] == ["δύο", "τρία", "τέσσερα"]  # three tokens a turn


@scenario
async def test_commands_in_the_users_language(fake, folder):
    async with Bot(fake, folder) as bot:
        for chat, language, words in ((7, "el", ("echo-chat", "επινοώ")), (8, "en", ("echo-chat", "I invent"))):
            fake.say(chat, "/start", language=language)
            await bot.until(lambda c=chat, w=words: any(all(x in t for x in w) for t in fake.texts(c)))
        for command, word in (("/help", "/reset"), ("/about@oracle_bot", "invents"), ("/nonsense", "do not know")):
            fake.say(8, command, language="en")
            await bot.until(lambda w=word: any(w in t for t in fake.texts(8)))
    assert not bot.backend.seen
    assert fake.count("setMyCommands") == 2


@scenario
async def test_what_is_not_answered_by_the_model(fake, folder):
    async with Bot(fake, folder, manners=dataclasses.replace(MANNERS, allow=frozenset([7]))) as bot:
        fake.say(7, None)
        fake.say(7, "α" * 201)
        fake.say(7, " \u200b ")
        fake.say(8, "με ακούς;")
        await bot.until(lambda: len(fake.texts(7)) == 3 and fake.texts(8) and "…" not in fake.texts(7) + fake.texts(8))
        assert sum("μόνο κείμενο" in t for t in fake.texts(7)) == 2
        assert any("201 χαρακτήρες" in t for t in fake.texts(7))
        assert "8" in fake.texts(8)[0]
    assert not bot.backend.seen


@scenario
async def test_edits_old_messages_bots_and_malformed_updates_are_nothing(fake, folder):
    fake.say(7, "παλιό", age=700)
    fake.raw({"update_id": 600, "edited_message": {"text": "διόρθωση"}})
    fake.raw({"update_id": 601, "message": {"text": "χωρίς συνομιλία"}})
    fake.raw(
        {"update_id": 602, "message": {"chat": {"id": "7"}, "from": {"id": 7}, "message_id": 1, "date": 1, "text": "x"}}
    )
    fake.raw({"surprise": True})
    fake.raw({"update_id": 10**30})
    fake.raw("κείμενο")
    fake._next_update = 700
    fake.say(7, "από bot", **{"from": {"id": 9, "is_bot": True, "first_name": "b"}})
    fake.say(7, "νέο")
    async with Bot(fake, folder) as bot:
        await bot.until(lambda: fake.holding(7, "νέο!"))
        await bot.until(lambda: bot.state.offset > 700)
    assert len(fake.texts(7)) == 1


@scenario
async def test_long_answers_are_split_and_cleaned(fake, folder):
    text = "Πρώτη παράγραφος.\n\n" + "Μια πρόταση 🙂 με λέξεις. " * 300 + "\u202eτέλος\x07 <b>&"
    async with Bot(fake, folder, Echo(lambda _: text)) as bot:
        fake.say(7, "πες")
        await bot.until(lambda: fake.holding(7, "τέλος <b>&"))
        parts = fake.texts(7)
    assert len(parts) == 2 and all(len(p.encode("utf-16-le")) <= 8192 for p in parts)
    assert parts[0].endswith(".") and "\u202e" not in parts[1]


@scenario
async def test_the_queue_is_bounded_tells_places_and_serves_a_chat_in_turn(fake, folder):
    backend = Echo()
    backend.let_go.clear()
    async with Bot(fake, folder, backend, slots=1, waiting=3) as bot:
        fake.say(1, "α")
        await bot.until(lambda: len(backend.seen) == 1)
        for chat, text in ((1, "β"), (2, "γ"), (3, "δ"), (4, "ε")):
            fake.say(chat, text)
            await bot.until(lambda c=chat, t=text: len(fake.texts(c)) == 1 + (t == "β"))
        await bot.until(lambda: "Περιμένουν πολλοί" in fake.texts(4)[0])
        assert (fake.texts(1)[1], fake.texts(2)[0], fake.texts(3)[0]) == tuple(
            f"Θέση στην ουρά: {n}…" for n in (1, 2, 3)
        )
        backend.let_go.set()
        await bot.until(lambda: all(fake.holding(c, f"{t}!") for c, t in ((1, "α"), (1, "β"), (2, "γ"), (3, "δ"))))
    assert [messages[-1]["content"] for messages, _ in backend.seen] == ["α", "β", "γ", "δ"]


@scenario
async def test_an_answer_is_shown_while_it_is_written(fake, folder):
    backend = Echo()
    backend.let_go.clear()
    async with Bot(fake, folder, backend) as bot:
        fake.say(7, "αργά")
        await bot.until(lambda: "απάντηση: …" in fake.texts(7))
        assert fake.count("sendChatAction") == 1
        backend.let_go.set()
        await bot.until(lambda: fake.holding(7, "απάντηση: αργά!"))
    (sent,) = fake.chats[7].values()
    assert sent.versions == ["…", "απάντηση: …", "απάντηση: αργά!"]


@scenario
async def test_limits_per_user_are_told_once(fake, folder):
    async with Bot(fake, folder, manners=dataclasses.replace(MANNERS, messages_per_minute=2)) as bot:
        for n in range(6):
            fake.say(7, f"μήνυμα {n}")
        fake.say(8, "άλλος")
        await bot.until(lambda: fake.holding(8, "άλλος!") and fake.holding(7, "μήνυμα 1!"))
        assert len(fake.texts(7)) == 3 and sum("Πολλά μηνύματα" in t for t in fake.texts(7)) == 1


@scenario
async def test_tokens_of_answers_count(fake, folder):
    manners = dataclasses.replace(MANNERS, tokens_per_minute=4)
    async with Bot(fake, folder, Echo(lambda _: "λέξη " * 20), manners=manners) as bot:
        fake.say(7, "ένα")
        await bot.until(lambda: fake.holding(7, "λέξη"))
        fake.say(7, "δύο")
        await bot.until(lambda: "Πολλά μηνύματα" in fake.texts(7)[-1])


@scenario
async def test_settings_change_what_the_model_is_asked(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(7, "/settings")
        await bot.until(lambda: fake.chats.get(7) and next(iter(fake.chats[7].values())).rows)
        ((number, sent),) = fake.chats[7].items()
        data = [button["callback_data"] for row in sent.rows for button in row]
        assert not any("keep" in d for d in data)  # nothing is recorded, so nothing is asked
        for choice in ("set:temperature:1.1", "set:length:60", "set:language:en", "set:epoch:9"):
            fake.press(7, number, choice)
        await bot.until(lambda: len(fake.acknowledged) == 4)
        fake.say(7, "hello")
        await bot.until(lambda: fake.holding(7, "hello!"))
        labels = [button["text"] for row in sent.rows for button in row]
    assert [label for label in labels if label.startswith("✓")] == ["✓ English", "✓ bold", "✓ short"]
    wish = bot.backend.seen[0][1]
    assert (wish.temperature, wish.max_tokens) == (1.1, 60)


@scenario
async def test_only_who_agrees_is_recorded_and_only_what_is_rated(fake, folder):
    rows = []
    async with Bot(fake, folder, record=lambda *row: rows.append(row)) as bot:
        fake.say(7, "πριν")
        await bot.until(lambda: fake.holding(7, "πριν!"))
        assert not any(sent.rows for sent in fake.chats[7].values())
        fake.say(7, "/start")
        await bot.until(lambda: any("αν το επιτρέψετε" in t for t in fake.texts(7)))
        fake.press(7, next(iter(fake.chats[7])), "set:keep:True")
        await bot.until(lambda: fake.acknowledged)
        number = fake.say(7, "μετά")
        await bot.until(lambda: any(s.rows and "μετά!" in s.text for s in fake.chats[7].values()))
        message = max(fake.chats[7])
    async with Bot(fake, folder, record=lambda *row: rows.append(row)) as bot:  # what may be rated survives a restart
        fake.press(8, message, f"up:{number}")  # not theirs
        fake.press(7, message, f"up:{'9' * 60}")
        fake.press(7, message, f"up:{number}")
        fake.press(7, message, f"down:{number}")
        await bot.until(lambda: len(fake.acknowledged) == 5)
        assert fake.chats[7][message].rows is None
    ((_, messages, answer, rating),) = rows
    assert (messages[-1]["content"], answer, rating) == ("μετά", "απάντηση: μετά!", "up")


@scenario
async def test_groups_are_answered_when_they_mean_the_bot(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(-5, "μιλάμε μεταξύ μας", user=7)
        fake.say(-5, "/help@other_bot", user=7)
        fake.say(-5, "@Oracle_bot τι λες;", user=7)
        await bot.until(lambda: fake.holding(-5, "απάντηση: τι λες;!"))
        assert len(fake.texts(-5)) == 1 and next(iter(fake.chats[-5].values())).reply_to


@scenario
async def test_who_blocks_the_bot_is_forgotten(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(7, "γεια")
        await bot.until(lambda: fake.holding(7, "γεια!"))
        fake.blocked.add(7)
        fake.say(7, "μυστικό")
        await bot.until(lambda: bot.state.offset > 0 and not bot.state.unfinished() and fake.count("sendMessage") == 2)
        assert bot.state.chat(7).history == []
    assert "μυστικό".encode() not in b"".join(p.read_bytes() for p in folder.iterdir())


@scenario
async def test_a_failing_model_is_admitted_and_not_remembered(fake, folder):
    def fail(text):
        raise NoAnswerError("στο τεστ") if text == "α" else ValueError("μυστικό κείμενο")

    async with Bot(fake, folder, Echo(fail)) as bot:
        for text in ("α", "β"):
            fake.say(7, text)
        await bot.until(lambda: sum("στραβά" in t for t in fake.texts(7)) == 2)
        assert bot.state.chat(7).history == []


def test_wrong_token_webhook_and_rival_end_in_one_sentence(tmp_path, monkeypatch):
    async def run(fake, **life):
        async with Bot(fake, tmp_path, **life) as bot:
            await asyncio.wait_for(bot.life.stopping.wait(), 10)

    with FakeTelegram() as fake, pytest.raises(UserError, match="does not know this token"):
        fake._getMe = lambda values: 1 / 0
        fake._serve = lambda handler: _unauthorized(fake, handler)
        asyncio.run(run(fake))
    with FakeTelegram(webhook=True) as fake, pytest.raises(UserError, match="--delete_webhook"):
        asyncio.run(run(fake))
    monkeypatch.setattr("oracle.telegram_loop.MAX_CONFLICTS", 4)
    with FakeTelegram(draw=lambda method, n: "409" if method == "getUpdates" else "") as fake:
        with pytest.raises(UserError, match="another program polls"):
            asyncio.run(run(fake))
        assert fake.count("getUpdates") == 4


def _unauthorized(fake, handler):
    from tests.fake_telegram import _send

    handler.rfile.read(int(handler.headers["Content-Length"]))
    _send(handler, 401, {"ok": False, "error_code": 401, "description": "Unauthorized"})


@scenario
async def test_a_webhook_is_deleted_when_asked(fake, folder):
    fake.webhook = True
    async with Bot(fake, folder, delete_webhook=True) as bot:
        fake.say(7, "γεια")
        await bot.until(lambda: fake.holding(7, "γεια!"))


@scenario
async def test_stopping_ends_what_is_written_and_leaves_the_rest_for_the_next_start(fake, folder):
    backend = Echo()
    backend.let_go.clear()
    async with Bot(fake, folder, backend, slots=1) as bot:
        fake.say(1, "πρώτη")
        await bot.until(lambda: len(backend.seen) == 1)
        fake.say(2, "δεύτερη")
        await bot.until(lambda: "Θέση" in "".join(fake.texts(2)))
        asyncio.get_running_loop().call_later(0.3, backend.let_go.set)
    assert fake.holding(1, "πρώτη!") and not fake.holding(2, "δεύτερη!")
    async with Bot(fake, folder) as bot:
        await bot.until(lambda: fake.holding(2, "δεύτερη!"))
    assert len(fake.texts(1)) == len(fake.texts(2)) == 1


@scenario
async def test_what_cannot_end_in_time_is_taken_up_in_the_same_message(fake, folder):
    backend = Echo()
    backend.let_go.clear()
    async with Bot(fake, folder, backend, grace=0.1) as bot:
        fake.say(1, "πρώτη")
        await bot.until(lambda: "απάντηση: …" in fake.texts(1))
    async with Bot(fake, folder) as bot:
        await bot.until(lambda: fake.holding(1, "πρώτη!"))
    assert len(fake.texts(1)) == 1


def test_an_offset_is_forgotten_after_six_days_of_silence_only(tmp_path, monkeypatch):
    now = 1_000_000.0
    monkeypatch.setattr("oracle.telegram_state.time.time", lambda: now)
    state = State(tmp_path / "bot.sqlite")
    assert state.offset == 0
    for _ in range(3):
        state.take([500], [])  # of no interest to the bot, and still confirmed
        now += 5 * 86_400
        assert state.offset == 501
    now += 2 * 86_400
    assert state.offset == 0
    state.close()


@scenario
async def test_what_was_asked_before_a_reset_is_not_remembered(fake, folder):
    backend = Echo()
    backend.let_go.clear()
    async with Bot(fake, folder, backend) as bot:
        fake.say(7, "α")
        await bot.until(lambda: backend.seen)
        fake.say(7, "/reset")
        await bot.until(lambda: any("ξεχάστηκε" in text for text in fake.texts(7)))
        backend.let_go.set()
        await bot.until(lambda: fake.holding(7, "α!"))
        assert bot.state.chat(7).history == []


def test_two_bots_do_not_share_a_state(tmp_path):
    state = State(tmp_path / "bot.sqlite")
    with pytest.raises(UserError, match="another bot is running"):
        State(tmp_path / "bot.sqlite")
    state.close()
    (tmp_path / "junk").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="damaged"):
        State(tmp_path / "junk")
    with contextlib.suppress(PermissionError), pytest.raises(UserError, match="name a file"):
        State(tmp_path)


def test_pace_keeps_telegrams_limits():
    now = 0.0
    pace = Pace(clock=lambda: now)

    def most(chats, seconds, window):
        """The most messages in any `window` while as many are sent as may be, and all of them."""
        nonlocal now
        times, end = [], now + seconds
        for chat in itertools.cycle(chats):
            if all(bucket.wait() == 0 for bucket in pace._buckets(chat)):
                pace.count(chat)
                times.append(now)
            elif chat == chats[-1]:
                now += 0.01
            if now >= end:
                return max(sum(t <= u < t + window for u in times) for t in times), len(times)

    window, all_of_them = most([1], 60, 1)
    assert window <= 3 and 60 <= all_of_them <= 62  # a short burst is allowed
    window, all_of_them = most([-1], 240, 60)
    assert window <= 20 and all_of_them >= 60
    window, all_of_them = most(range(100, 200), 10, 1)
    assert window <= 30 and all_of_them >= 250
    pace.pause(5, 30)
    assert pace._buckets(5)[0].wait() == pytest.approx(30)


def test_who_asks_first_sends_first_and_a_pause_holds_for_those_who_wait(monkeypatch):
    now, order = 0.0, []

    async def sleep(seconds):
        nonlocal now
        now += seconds
        await real(0)

    async def turn(n):
        await pace.turn(7)
        order.append((n, now))

    async def run():
        waiting = [asyncio.ensure_future(turn(n)) for n in range(20)]
        await real(0)
        pace.pause(7, 100)
        await asyncio.gather(*waiting)

    real, pace = asyncio.sleep, Pace(clock=lambda: now)
    monkeypatch.setattr("oracle.telegram_pace.asyncio.sleep", sleep)
    asyncio.run(run())
    assert [n for n, _ in order] == list(range(20)) and all(when >= 100 for _, when in order[4:])


@scenario
async def test_a_group_counts_as_one_user_and_is_told_once(fake, folder):
    async with Bot(fake, folder, manners=dataclasses.replace(MANNERS, messages_per_minute=2)) as bot:
        for user in range(1, 7):
            fake.say(-5, f"/help@oracle_bot {user}", user=user)
        fake.say(7, "άλλος")
        await bot.until(lambda: fake.holding(7, "άλλος!") and len(fake.texts(-5)) == 3 and "…" not in fake.texts(-5))
        assert sum("Πολλά μηνύματα" in text for text in fake.texts(-5)) == 1


@scenario
async def test_who_presses_buttons_without_end_is_told(fake, folder):
    async with Bot(fake, folder, manners=dataclasses.replace(MANNERS, messages_per_minute=3)) as bot:
        fake.say(7, "/settings")
        await bot.until(lambda: fake.chats.get(7) and next(iter(fake.chats[7].values())).rows)
        for n in range(6):
            fake.press(7, next(iter(fake.chats[7])), f"set:length:{(60, 200)[n % 2]}")
        await bot.until(lambda: len(fake.acknowledged) == 6)
        assert sum("Πολλά μηνύματα" in said for said in fake.acknowledged) == 4
        assert bot.state.chat(7).choices.length == 200


@scenario
async def test_buttons_show_what_was_chosen_last_though_edits_overtake_each_other(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(7, "/settings")
        await bot.until(lambda: fake.chats.get(7) and next(iter(fake.chats[7].values())).rows)
        ((number, sent),) = fake.chats[7].items()
        edit, first = bot.api._edit, asyncio.Event()

        async def late(*args):
            """The first edit arrives after the second."""
            if not first.is_set():
                first.set()
                await bot.until(lambda: len(sent.versions) > 2)
            await edit(*args)

        bot.api._edit = late
        fake.press(7, number, "set:length:60")
        await asyncio.wait_for(first.wait(), 5)
        fake.press(7, number, "set:length:500")
        await bot.until(lambda: len(fake.acknowledged) == 2)
        assert [b["text"] for row in sent.rows for b in row if b["text"].startswith("✓")] == ["✓ μακριά"]


@scenario
async def test_a_reply_that_telegram_refuses_is_admitted(fake, folder):
    edit = fake._editMessageText

    def refuse(values):
        if "!" in values["text"]:
            raise _No(400, "Bad Request: text must be something else")
        return edit(values)

    fake._editMessageText = refuse
    async with Bot(fake, folder) as bot:
        fake.say(7, "γεια")
        await bot.until(lambda: any("στραβά" in text for text in fake.texts(7)) and not bot.state.unfinished())


@scenario
async def test_rubbish_for_a_message_id_is_asked_for_again(fake, folder):
    send, broken = fake._sendMessage, iter(("x", None, {}))

    def rubbish(values):
        sent = send(values)
        return {**sent, "message_id": next(broken, sent["message_id"])}

    fake._sendMessage = rubbish
    async with Bot(fake, folder) as bot:
        fake.say(7, "γεια")
        await bot.until(lambda: fake.holding(7, "γεια!"))


@scenario
async def test_halves_of_characters_do_not_stop_it(fake, folder):
    async with Bot(fake, folder) as bot:
        fake.say(7, "α\ud800ω", language="\udfff")
        fake.press(7, 5, "\ud83d")
        await bot.until(lambda: fake.holding(7, "α?ω!") and fake.acknowledged)
    async with Bot(fake, folder) as bot:
        fake.say(7, "πάλι")
        await bot.until(lambda: fake.holding(7, "πάλι!"))


KEYS = ["update_id", "message", "chat", "from", "id", "text", "date", "message_id", "callback_query", "data", "is_bot"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["/x", "@oracle_bot"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)


@given(JSON | st.fixed_dictionaries({"update_id": st.just(1), "message": JSON}))
def test_no_update_is_more_than_nothing(update):
    """Whatever comes is understood as something that can be written down, or as nothing."""
    number_of(update)
    found = understand(update, Me(42, "oracle_bot"))
    assert found is None or json.dumps(dataclasses.asdict(found), ensure_ascii=False).encode()


@scenario
async def test_after_a_reset_nothing_from_before_can_be_kept(fake, folder):
    rows, backend = [], Echo()
    async with Bot(fake, folder, backend, record=lambda *row: rows.append(row)) as bot:
        fake.say(7, "/settings")
        await bot.until(lambda: fake.texts(7) and "…" not in fake.texts(7))
        fake.press(7, next(iter(fake.chats[7])), "set:keep:True")
        await bot.until(lambda: fake.acknowledged)
        before = fake.say(7, "πριν")
        await bot.until(lambda: fake.holding(7, "πριν!"))
        backend.let_go.clear()
        during = fake.say(7, "ενώ")
        await bot.until(lambda: len(backend.seen) == 2)
        fake.say(7, "/reset")
        await bot.until(lambda: any("ξεχάστηκε" in text for text in fake.texts(7)))
        backend.let_go.set()
        await bot.until(lambda: fake.holding(7, "ενώ!"))
        for number in (before, during):
            fake.press(7, max(fake.chats[7]), f"up:{number}")
        await bot.until(lambda: len(fake.acknowledged) == 3)
    assert not rows and fake.acknowledged[1:] == ["Αυτή η απάντηση δεν φυλάσσεται πια."] * 2


@scenario
async def test_a_full_disk_keeps_the_buttons_for_later(fake, folder):
    rows, full = [], [OSError(28, "No space left on device")]

    def record(*row):
        if full:
            raise full.pop()
        rows.append(row)

    async with Bot(fake, folder, record=record) as bot:
        fake.say(7, "/settings")
        await bot.until(lambda: fake.texts(7) and "…" not in fake.texts(7))
        fake.press(7, next(iter(fake.chats[7])), "set:keep:True")
        number = fake.say(7, "γεια")
        await bot.until(lambda: fake.holding(7, "γεια!"))
        message = max(fake.chats[7])
        for n in (2, 3):
            fake.press(7, message, f"down:{number}")
            await bot.until(lambda n=n: len(fake.acknowledged) == n)
            assert (fake.chats[7][message].rows is None) == (n == 3)
    assert len(rows) == 1 and "στραβά" in fake.acknowledged[1]


def test_recorded_rows_are_what_the_trainers_read(tmp_path):
    import telegram_bot
    from oracle.config import load

    config = load("telegram_bot.py", [f"--record={tmp_path / 'talks.jsonl'}", "--api_url=http://127.0.0.1/v1"]).config
    record = telegram_bot.open_record(config)
    record(5, [{"role": "user", "content": "γεια"}], "χαίρετε", "up")
    (row,) = map(json.loads, (tmp_path / "talks.jsonl").read_text().splitlines())
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"] and row["rating"] == "up"
