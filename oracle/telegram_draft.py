"""An answer while it is written: by a thread, and shown by edits of one message."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence

from oracle.plaintext import clean_output
from oracle.telegram_api import Api, log
from oracle.telegram_backend import Backend, Message, NoAnswerError, Wish
from oracle.telegram_split import split

SHOW_SECONDS = 1.0  # between two edits
TYPING_SECONDS = 5.0  # Telegram shows "typing" so long


class Draft:
    """What a backend writes, in a thread of its own. `over` is set when that has ended."""

    def __init__(self, backend: Backend, messages: Sequence[Message], wish: Wish) -> None:
        self.failed = self.cancelled = False
        self.over = asyncio.Event()
        self._text = ""
        self._loop = asyncio.get_running_loop()
        # A daemon: a server that hangs does not keep the bot from ending.
        threading.Thread(target=self._write, args=(backend, messages, wish), daemon=True).start()

    @property
    def text(self) -> str:
        return clean_output(self._text).strip()

    def _write(self, backend: Backend, messages: Sequence[Message], wish: Wish) -> None:
        try:
            for piece in backend.answer(messages, wish, lambda: self.cancelled):
                self._text += piece
        except NoAnswerError as error:
            log.warning("no answer from the model: %s", error)
            self.failed = True
        except Exception as error:  # its message may quote what a user wrote
            log.error("the model's answer failed: %s", type(error).__name__)
            self.failed = True
        with contextlib.suppress(RuntimeError):  # the bot has ended
            self._loop.call_soon_threadsafe(self.over.set)


async def written(draft: Draft, api: Api, chat: int, message: int) -> str:
    """The finished text; until then the chat sees the bot type and the message grow."""
    shown, typed = "", -TYPING_SECONDS
    try:
        while not draft.over.is_set():
            if time.monotonic() - typed >= TYPING_SECONDS:
                typed = time.monotonic()
                await api.typing(chat)
            text = draft.text
            if text != shown:
                shown = text
                await api.show(chat, message, split(f"{text} …")[0])
            await pause(draft.over, SHOW_SECONDS)
    finally:
        draft.cancelled = True
    return draft.text


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Until the event, `seconds` at most."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
