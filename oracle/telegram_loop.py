"""The bot's life: what was left unfinished, then updates as they come, until it is told to stop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from telegram.error import Conflict, RetryAfter, TelegramError

from oracle.cli import UserError
from oracle.telegram_api import Api, Backoff, is_webhook, log, seconds
from oracle.telegram_state import State
from oracle.telegram_talk import Talk
from oracle.telegram_texts import COMMANDS, MENU
from oracle.telegram_update import Me, number_of, understand

MAX_TASKS = 200  # unfinished replies beyond which no more updates are fetched
MAX_CONFLICTS = 10  # in a row; a bot that was killed leaves a poll behind that Telegram takes a minute to forget
WEBHOOK = (
    "this bot's updates go to a webhook, so polling gets none: stop the program behind the webhook, or take it away"
    " with --delete_webhook"
)
RIVAL = "another program polls with this bot's token: stop that one, or have @BotFather make a new token"


class Life:
    """Runs a bot in the current event loop."""

    def __init__(self, api: Api, state: State, talk: Talk, grace_seconds: float, delete_webhook: bool) -> None:
        self.api, self.state, self.talk = api, state, talk
        self.grace_seconds, self.delete_webhook = grace_seconds, delete_webhook
        self.stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._polling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until SIGTERM or Ctrl-C. Raises UserError for what its owner must mend: token, webhook, state file."""
        self._listen()
        await self.api.open()
        try:
            self._polling = self._start(self._live())
            await self.stopping.wait()
            self._polling.cancel()
            await self._finish()
        finally:
            await self.api.close()
        if self._failure:
            raise self._failure

    async def _live(self) -> None:
        me = await self.api.me()
        if self.delete_webhook:
            await self.api.delete_webhook()
        for n, language in ((0, "el"), (1, "")):
            await self.api.menu([(command, MENU[command][n]) for command in COMMANDS], language)
        print(f"@{me.username} is on the air as {self.talk.backend.name}", flush=True)
        for incoming in self.state.unfinished():
            self._start(self.talk.handle(incoming, was_here=True))
        await self._poll(me)

    async def _poll(self, me: Me) -> None:
        backoff, conflicts = Backoff(self.api.first_pause), 0
        while True:
            try:
                updates = await self.api.updates(self.state.offset)
                backoff.reset()
                conflicts = 0
                self._take(updates, me)
                while len(self._tasks) > MAX_TASKS:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            except Conflict as error:
                conflicts += 1
                if is_webhook(error) or conflicts >= MAX_CONFLICTS:
                    raise UserError(WEBHOOK if is_webhook(error) else RIVAL) from None
                log.warning("%s (trying again)", RIVAL)
                await asyncio.sleep(backoff.next())
            except TelegramError as error:
                if not backoff.failures:
                    log.warning("Telegram does not deliver updates (%s); trying again", type(error).__name__)
                await asyncio.sleep(backoff.next(seconds(error) if isinstance(error, RetryAfter) else 0))

    def _take(self, updates: list[Any], me: Me) -> None:
        numbers = [number for update in updates if (number := number_of(update)) is not None]
        if updates and not numbers:
            raise TelegramError("no update has a number")
        meant = [incoming for update in updates if (incoming := understand(update, me))]
        for incoming in self.state.take(numbers, meant):
            self._start(self.talk.handle(incoming))

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, UserError) or (error and task is self._polling):
            self._failure = error
            self.stopping.set()
        elif error:  # ours; the update stays unfinished. Its message may quote what a user wrote
            log.error("a reply failed: %s at %s", type(error).__name__, _place(error))

    async def _finish(self) -> None:
        """Let what is being written end in time; the rest is unfinished in the state, for the next start."""
        self.talk.line.close()
        replies = self._tasks - {self._polling}
        if replies and not self._failure:
            print("stopping: answers in progress may end", file=sys.stderr, flush=True)
            await asyncio.wait(replies, timeout=self.grace_seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()

        def told() -> None:
            if self.stopping.is_set():
                os._exit(130)  # asked twice: nothing is lost by it, see the state
            self.stopping.set()

        with contextlib.suppress(NotImplementedError):  # Windows, where Ctrl-C ends it at once
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, told)


def _place(error: BaseException) -> str:
    """Where in the code it happened."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}" if trace else "?"
