"""Let people talk to a trained model on Telegram.

    TELEGRAM_BOT_TOKEN=… python telegram_bot.py out/demo-chat
    python telegram_bot.py out/demo-chat --token_file=token.txt --record=out/talks.jsonl --allow=123456,234567
    python telegram_bot.py --token_file=token.txt --api_url=http://127.0.0.1:8000/v1

@BotFather gives a token. It never stands on the command line, and is shown in no log. Ctrl-C or SIGTERM stops the bot;
messages that came meanwhile are answered after the next start, unless they are older than ten minutes.
"""

import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.config import load, without_effect
from oracle.settings import Config
from oracle.telegram_backend import Backend, InProcess, Message, Remote
from oracle.telegram_secret import VARIABLE, Hider, read_token, refuse_on_command_line

if TYPE_CHECKING:
    from oracle.telegram_talk import Rating, Record


def main(argv: Sequence[str]) -> None:
    refuse_on_command_line(argv)
    call = load("telegram_bot.py", argv)
    config = call.config
    for warning in without_effect(config, "telegram_bot.py"):
        print(f"warning: {warning}", file=sys.stderr)
    if not call.source and "out_dir" not in call.changed and not config.api_url:
        raise UsageError("no model: name a run directory such as out/demo-chat, or a server with --api_url")
    if importlib.util.find_spec("telegram") is None:
        raise UserError("the bot needs python-telegram-bot: pip install -r requirements-serve.txt")
    token = read_token(config.token_file)
    os.environ.pop(VARIABLE, None)  # nothing started from here inherits it
    Hider(token).install()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("nanooracle").setLevel(logging.INFO)
    backend = open_backend(config)
    if call.dry_run:
        print(f"would answer as {backend.name}, with the state in {state_file(config)}")
        return
    try:
        asyncio.run(serve(config, token, backend))
    finally:
        backend.close()


def open_backend(config: Config) -> Backend:
    """What the settings name: the server, or else the model of the run directory."""
    if config.api_url:
        return Remote(config.api_url, config.api_model, config.answer_seconds)
    from oracle.generate import open_engine
    from oracle.hardware import setup_device
    from oracle.metrics import Metrics
    from oracle.sampling import params_of
    from oracle.worker import Worker

    engine = open_engine(config.out_dir, config.checkpoint, config.dtype, config.slots, setup_device(config))
    print("warming up (longer the first time on a machine)", file=sys.stderr, flush=True)
    engine.warm_up()
    return InProcess(Worker(engine, config.slots, Metrics()), params_of(config), config.answer_seconds)


def open_record(config: Config) -> "Record | None":
    """What writes rated answers down, if they are to be."""
    if not config.record:
        return None
    from oracle.record import Recorder

    recorder = Recorder(config.record)
    recorder.recall()

    def record(number: int, messages: list[Message], answer: str, rating: "Rating") -> None:
        recorder.remember(str(number), messages, answer)
        recorder.rate(str(number), rating, versions=None)

    return record


def state_file(config: Config) -> Path:
    if config.state_file:
        return Path(config.state_file)
    return Path("telegram.sqlite" if config.api_url else f"{config.out_dir}/telegram.sqlite")


async def serve(config: Config, token: str, backend: Backend) -> None:
    """Run the bot until it is told to stop. Raises UserError for what its owner must mend."""
    from oracle.telegram_api import Api
    from oracle.telegram_line import Line
    from oracle.telegram_loop import Life
    from oracle.telegram_state import State
    from oracle.telegram_talk import Manners, Talk

    manners = Manners(
        frozenset(config.allow), config.max_input, config.max_new_tokens, config.max_answer_tokens, config.temperature,
        config.history_tokens, config.messages_per_minute, config.tokens_per_minute, config.log_text,
    )  # fmt: skip
    api = Api(token, config.bot_api, config.poll_seconds, config.call_seconds)
    state = State(state_file(config))
    try:
        line = Line(config.slots, config.max_waiting, config.max_waiting_per_chat)
        talk = Talk(api, state, backend, line, manners, open_record(config))
        await Life(api, state, talk, config.grace_seconds, config.delete_webhook).run()
    finally:
        state.close()


if __name__ == "__main__":
    sys.exit(cli.run(main))
