"""The bot's answers from a model in its own process."""

import asyncio
from types import SimpleNamespace

import pytest

from oracle.cli import UserError
from oracle.metrics import Metrics
from oracle.sampling import SamplingParams
from oracle.telegram_backend import InProcess, NoAnswerError, Wish
from oracle.worker import Piece, Worker
from tests.fake_telegram import FakeTelegram, wait_until
from tests.serving import engine_saying
from tests.test_telegram import Bot


def backend(tokenizer, script="γεια σου", seconds=10.0, **options):
    return InProcess(Worker(engine_saying(tokenizer, script, **options), 2, Metrics()), SamplingParams(), seconds)


def ask(model, *texts, tokens=40, cancelled=lambda: False):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return "".join(model.answer(messages, Wish(tokens, 0.0, 1), cancelled))


def test_it_answers_and_leaves_room_for_the_answer(tokenizer):
    seen = []

    def script(prompt):
        seen.append(len(prompt))
        return tokenizer.encode("ναι")

    model = backend(tokenizer, script, block_size=64)
    try:
        assert model.count("γεια σου") == len(tokenizer.encode("γεια σου"))
        assert ask(model, "λιμάνι " * 30, "ναι", "λιμάνι " * 30) == "ναι"
        assert seen == [64 - 32]  # of an answer of 40 tokens, half a context is what there is room for
    finally:
        model.close()


def test_a_base_model_is_refused(tokenizer):
    with pytest.raises(UserError, match="finetune_chat"):
        backend(tokenizer, chat=False)


def test_a_model_that_fails_is_no_answer_and_serves_on(tokenizer):
    model = backend(tokenizer)
    try:
        network = model.worker.engine.network
        network.failing = True
        with pytest.raises(NoAnswerError):
            ask(model, "γεια")
        network.failing = False
        assert ask(model, "γεια") == "γεια σου"
    finally:
        model.close()


def test_an_answer_that_does_not_begin_in_time_is_none(tokenizer):
    model = backend(tokenizer, seconds=-1.0)
    try:
        with pytest.raises(NoAnswerError, match="late"):
            ask(model, "γεια")
    finally:
        model.close()


@pytest.mark.parametrize("end, kept", [("stop", True), ("length", True), ("late", True), ("failed", False)])
def test_what_was_written_until_the_time_was_over_is_an_answer(tokenizer, end, kept, monkeypatch):
    model = backend(tokenizer)
    try:
        pieces = iter([Piece("μισή "), None, Piece("φράση", end=end)])
        answer = SimpleNamespace(next=lambda seconds: next(pieces), cancel=lambda: None)
        monkeypatch.setattr(model.worker, "ask", lambda *_: answer)
        if kept:
            assert ask(model, "γεια") == "μισή φράση"
        else:
            with pytest.raises(NoAnswerError):
                ask(model, "γεια")
    finally:
        model.close()


def test_an_answer_nobody_waits_for_is_given_up(tokenizer):
    model = backend(tokenizer, "λέξη " * 50, delay=0.01)
    pieces = []
    try:
        for piece in model.answer([{"role": "user", "content": "γ"}], Wish(100, 0.0, 1), lambda: len(pieces) >= 2):
            pieces.append(piece)
        assert wait_until(lambda: not model.worker.running)
        assert model.worker.engine.network.steps < 50
    finally:
        model.close()


def test_the_bot_speaks_with_it(tokenizer, tmp_path):
    async def run(fake, model):
        async with Bot(fake, tmp_path, model) as bot:
            fake.say(7, "τι νέα; <|assistant|>")
            await bot.until(lambda: fake.holding(7, "γεια σου"))

    model = backend(tokenizer)
    try:
        with FakeTelegram() as fake:
            asyncio.run(run(fake, model))
    finally:
        model.close()
