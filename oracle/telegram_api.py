"""Calls to Telegram that come through: what may be repeated is repeated until it succeeds, at the pace Telegram allows.

What an error means (https://core.telegram.org/bots/api#making-requests): 401 and 404 a wrong token, 403 a user who
blocked the bot, 409 another program that polls for the same bot, 429 too many messages; anything else, broken
answers included, passes.
"""

import asyncio
import json
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import telegram
from telegram.error import BadRequest, ChatMigrated, Conflict, Forbidden, InvalidToken, RetryAfter, TelegramError
from telegram.request import HTTPXRequest

from oracle.cli import UserError
from oracle.telegram_pace import Pace
from oracle.telegram_update import Me

log = logging.getLogger("nanooracle.telegram")

os.environ["PTB_TIMEDELTA"] = "true"  # the pause of a 429 as a timedelta; else the library warns at each of them

T = TypeVar("T")
Rows = Sequence[Sequence[tuple[str, str]]]  # of buttons: (label, data)
WANTED = ["message", "callback_query"]
LONGEST_PAUSE = 3600.0  # seconds a 429 may ask for
# What python-telegram-bot raises for answers that are JSON but not what was asked for.
RUBBISH = (KeyError, TypeError, ValueError, AttributeError)
WRONG_TOKEN = "Telegram does not know this token; copy it again from @BotFather, or have it make a new one"
HARMLESS = ("not modified", "message to edit not found", "message_id_invalid")  # of refused edits: nothing is missing
NO_PREVIEW = telegram.LinkPreviewOptions(is_disabled=True)


class ChatClosedError(Exception):
    """The chat will take no more messages: the user blocked the bot, or the group is gone."""


class RefusedError(Exception):
    """Telegram will not do this, however often it is asked."""


class Transport(HTTPXRequest):
    """python-telegram-bot's requests, with answers that are checked and never logged."""

    @staticmethod
    def parse_json_payload(payload: bytes) -> dict[str, Any]:
        """The answer's object. Raises TelegramError for anything else; the original logs what it could not read."""
        try:
            value = json.loads(payload.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or (value.get("ok") and "result" not in value):
            raise TelegramError("Telegram's answer is malformed")
        if not isinstance(value.get("parameters", {}), dict):
            del value["parameters"]
        return value


class _Bot(telegram.Bot):
    async def raw_updates(self, offset: int, seconds: int, spare: float) -> Any:
        """getUpdates without the library's own reading, which gives up on all when one update is malformed."""
        wanted = {"offset": offset or None, "timeout": seconds, "allowed_updates": WANTED}
        return await self._post("getUpdates", wanted, read_timeout=seconds + spare)


class Backoff:
    """Growing pauses, random so that not all come back at once."""

    def __init__(self, first: float, longest: float = 60.0) -> None:
        self.first, self.longest, self.failures = first, longest, 0

    def next(self, at_least: float = 0.0) -> float:
        pause = min(self.longest, self.first * 2 ** min(self.failures, 16))
        self.failures += 1
        return max(min(at_least, LONGEST_PAUSE), pause * random.uniform(0.5, 1))

    def reset(self) -> None:
        self.failures = 0


class Api:
    """The calls the bot needs. Between `open` and `close`; any of them may raise UserError for a wrong token."""

    def __init__(
        self, token: str, address: str, poll_seconds: int, call_seconds: float, first_pause: float = 0.5
    ) -> None:
        def transport(size: int) -> Transport:
            return Transport(size, call_seconds, call_seconds, call_seconds, pool_timeout=call_seconds)

        self.pace = Pace()
        self.poll_seconds, self.call_seconds, self.first_pause = poll_seconds, call_seconds, first_pause
        self._requests = transport(1), transport(16)
        self._bot = _Bot(
            token, f"{address.rstrip('/')}/bot", get_updates_request=self._requests[0], request=self._requests[1]
        )

    async def open(self) -> None:
        for request in self._requests:
            await request.initialize()

    async def close(self) -> None:
        for request in self._requests:
            await request.shutdown()

    async def me(self) -> Me:
        user = await self._insist(self._bot.get_me)
        return Me(user.id, user.username or "")

    async def delete_webhook(self) -> None:
        await self._insist(self._bot.delete_webhook)

    async def updates(self, offset: int) -> list[Any]:
        """Updates from `offset` on, after waiting for some; tried once. Raises TelegramError."""
        try:
            found = await self._bot.raw_updates(offset, self.poll_seconds, self.call_seconds)
        except InvalidToken:
            raise UserError(WRONG_TOKEN) from None
        except RUBBISH:
            raise TelegramError("Telegram's answer is malformed") from None
        if not isinstance(found, list):
            raise TelegramError("Telegram's answer is malformed")
        return found

    async def send(self, chat: int, text: str, reply_to: int | None = None) -> int:
        """A new message; its id. Not to be repeated lightly: when the answer gets lost, the message may stand twice."""
        to = telegram.ReplyParameters(reply_to, allow_sending_without_reply=True) if reply_to else None

        async def call() -> int:
            sent = await self._bot.send_message(chat, text, reply_parameters=to, link_preview_options=NO_PREVIEW)
            return int(sent.message_id)  # within the call: rubbish for a number is one more reason to repeat it

        return await self._insist(call, chat)

    async def edit(self, chat: int, message: int, text: str, rows: Rows = ()) -> None:
        """Make `text` and `rows` the content of a message. Without effect if it is so already or its user deleted it."""
        await self._insist(lambda: self._edit(chat, message, text, rows), chat)

    async def show(self, chat: int, message: int, text: str) -> None:
        """Edit, once and only if the pace allows: the next one will have it all."""
        if self.pace.spare(chat):
            self.pace.count(chat)
            await self._try(lambda: self._edit(chat, message, text, ()), chat)

    async def typing(self, chat: int) -> None:
        await self._try(lambda: self._bot.send_chat_action(chat, "typing"), chat)

    async def take_buttons(self, chat: int, message: int) -> None:
        await self._try(lambda: self._bot.edit_message_reply_markup(chat, message), chat)

    async def acknowledge(self, callback: str, text: str) -> None:
        """Tell whoever pressed a button that it was noticed."""
        await self._try(lambda: self._bot.answer_callback_query(callback, text or None))

    async def menu(self, commands: Sequence[tuple[str, str]], language: str) -> None:
        await self._try(lambda: self._bot.set_my_commands(list(commands), language_code=language or None))

    async def _edit(self, chat: int, message: int, text: str, rows: Rows) -> None:
        keyboard = [[telegram.InlineKeyboardButton(label, callback_data=data) for label, data in row] for row in rows]
        markup = telegram.InlineKeyboardMarkup(keyboard) if keyboard else None
        try:
            await self._bot.edit_message_text(text, chat, message, link_preview_options=NO_PREVIEW, reply_markup=markup)
        except BadRequest as error:
            said = str(error).lower()
            if not any(harmless in said for harmless in HARMLESS):
                raise

    async def _insist(self, call: Callable[[], Awaitable[T]], chat: int | None = None) -> T:
        """The call's result, however often it takes. Raises ChatClosedError, RefusedError, and UserError for a wrong token."""
        backoff = Backoff(self.first_pause)
        while True:
            if chat is not None:
                await self.pace.turn(chat)
            wait = 0.0
            try:
                return await call()
            except InvalidToken:
                raise UserError(WRONG_TOKEN) from None
            except RetryAfter as error:
                wait = min(seconds(error), LONGEST_PAUSE)
                if chat is not None:
                    self.pace.pause(chat, wait)
            except (Forbidden, ChatMigrated) as error:
                raise ChatClosedError(str(error)) from None
            except BadRequest as error:
                refusal = ChatClosedError if "chat not found" in str(error).lower() else RefusedError
                raise refusal(str(error)) from None
            except (TelegramError, *RUBBISH) as error:
                log.info("Telegram did not answer a call as it should (%s), trying again", type(error).__name__)
            await asyncio.sleep(backoff.next(wait))

    async def _try(self, call: Callable[[], Awaitable[object]], chat: int | None = None) -> None:
        """The call, once; its failure changes nothing."""
        try:
            await call()
        except InvalidToken:
            raise UserError(WRONG_TOKEN) from None
        except RetryAfter as error:
            if chat is not None:
                self.pace.pause(chat, min(seconds(error), LONGEST_PAUSE))
        except (TelegramError, *RUBBISH):
            pass


def seconds(error: RetryAfter) -> float:
    """What a 429 asks for."""
    assert isinstance(error.retry_after, timedelta)
    return error.retry_after.total_seconds()


def is_webhook(error: Conflict) -> bool:
    """Whether a 409 is about a webhook, and not about another program that polls."""
    return "webhook" in str(error).lower()
