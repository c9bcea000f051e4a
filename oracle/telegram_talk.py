"""What the bot does with one update, from taken to done. The steps and why they are these: `oracle/telegram_state.py`."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from oracle.ratelimit import Bucket, Buckets
from oracle.telegram_api import Api, ChatClosedError, RefusedError, Rows, log
from oracle.telegram_backend import Backend, Message, Wish
from oracle.telegram_draft import Draft, pause, written
from oracle.telegram_line import ChatBusyError, Line, LineClosedError, LineFullError, Ticket
from oracle.telegram_split import split
from oracle.telegram_state import Chat, Reply, State
from oracle.telegram_texts import chosen, language_of, say, settings_rows
from oracle.telegram_update import LARGEST, Incoming
from oracle.text import normalize

TOO_OLD = 600  # seconds after which nobody waits for an answer
PLACE_SECONDS = 3.0  # between two looks at a place in the queue
RATING, SETTINGS = "rating", "settings"
Rating = Literal["up", "down"]
Record = Callable[[int, list[Message], str, Rating], None]  # the update's number, messages, answer

RATINGS: dict[str, Rating] = {"up": "up", "down": "down"}


@dataclass(frozen=True)
class Manners:
    """Who may talk to the bot, how much, and how it answers."""

    allow: frozenset[int]  # user ids; empty: everybody
    max_input: int  # characters
    tokens: int  # of an answer, unless the chat chose otherwise
    max_tokens: int
    temperature: float
    history_tokens: int
    messages_per_minute: int
    tokens_per_minute: int
    log_text: bool = False


class Talk:
    """Handles updates, many at the same time."""

    def __init__(
        self, api: Api, state: State, backend: Backend, line: Line, manners: Manners, record: Record | None = None
    ) -> None:
        self.api, self.state, self.backend, self.line = api, state, backend, line
        self.manners, self.record = manners, record
        self._messages = Buckets(lambda: Bucket(manners.messages_per_minute / 60, manners.messages_per_minute))
        self._tokens = Buckets(lambda: Bucket(manners.tokens_per_minute / 60, manners.tokens_per_minute))
        self._warnings = Buckets(lambda: Bucket(1 / 60, 1))  # of a chat that is too fast: it is told once a minute

    async def handle(self, incoming: Incoming, was_here: bool = False) -> None:
        """Reply to an update, from the step it had reached if it `was_here` before a restart."""
        try:
            if incoming.kind == "button":
                await self._pressed(incoming, was_here)
            else:
                reply = self.state.progress(incoming.update_id).reply or await self._reply(incoming, was_here)
                if reply:
                    await self._deliver(incoming, reply)
            self.state.done(incoming.update_id)
        except ChatClosedError as error:
            log.info("a chat is closed (%s): its history is forgotten", error)
            self.state.drop_chat(incoming.chat_id)
        except RefusedError as error:
            log.warning("Telegram refused a reply: %s", error)
            await self._admit(incoming)
            self.state.done(incoming.update_id)
        except LineClosedError:
            pass  # unfinished in the state: the next start takes it up

    async def _reply(self, incoming: Incoming, was_here: bool) -> Reply | None:
        """The reply, fixed in the state; None for silence."""
        chat = self.state.chat(incoming.chat_id)
        language = language_of(chat.choices, incoming.language)
        old = time.time() - incoming.date > TOO_OLD
        if old and not self.state.progress(incoming.update_id).placed:
            log.warning(
                "a message older than %d minutes is left unanswered; is this machine's clock right?", TOO_OLD / 60
            )
            return None
        reply = Reply(say("late", language)) if old else None
        if reply is None and not was_here and (seconds := self._too_fast(incoming)):
            if self._warnings[incoming.chat_id].wait():
                return None
            self._warnings[incoming.chat_id].take()
            reply = Reply(say("slower", language, seconds=seconds))
        reply = reply or self._own(incoming, language)
        if reply is None:
            try:
                with self.line.join(incoming.chat_id, was_here) as ticket:
                    return await self._answer(incoming, ticket, language)
            except (ChatBusyError, LineFullError) as error:
                reply = Reply(say("full" if isinstance(error, LineFullError) else "one_at_a_time", language))
        self.state.write(incoming.update_id, reply)
        return reply

    def _too_fast(self, incoming: Incoming) -> int:
        """Seconds until the user may ask again; 0: now, and it is counted.

        A group counts as one user besides, whoever writes in it: Telegram takes 20 messages a minute there, edits
        included, and replies that wait for that would hold up everybody's.
        """
        messages = [self._messages[key] for key in {incoming.user_id, incoming.chat_id}]
        seconds = max(bucket.wait() for bucket in (*messages, self._tokens[incoming.user_id]))
        if seconds > 0:
            return int(seconds) + 1
        for bucket in messages:
            bucket.take()
        return 0

    def _own(self, incoming: Incoming, language: str) -> Reply | None:
        """Replies that need no model; None when the model is to answer."""
        if self.manners.allow and incoming.user_id not in self.manners.allow:
            return Reply(say("private", language, user=incoming.user_id))
        text, help_text = normalize(incoming.text).strip(), say("help", language)
        if incoming.kind == "other" or not text:
            return Reply(say("not_text", language))
        if len(text) > self.manners.max_input:
            return Reply(say("too_long", language, given=len(text), allowed=self.manners.max_input))
        if not text.startswith("/"):
            return None
        if incoming.command in ("start", "about"):
            told = say(incoming.command, language, name=self.backend.name, help=help_text)
            return Reply(told + (say("recording", language) if self.record else ""))
        if incoming.command == "help":
            return Reply(help_text)
        if incoming.command == "reset":
            self.state.reset(incoming.chat_id)
            return Reply(say("reset", language))
        if incoming.command == "settings":
            return Reply(say("settings", language), SETTINGS)
        return Reply(say("unknown", language, help=help_text))

    async def _answer(self, incoming: Incoming, ticket: Ticket, language: str) -> Reply:
        """Wait for the turn, let the model write, and fix what it wrote."""
        place = self.line.place(ticket)
        message = (await self._placed(incoming, 1, _waiting(place, language)))[0]
        while place:
            await pause(ticket.called, PLACE_SECONDS)
            now = self.line.place(ticket)
            if now and now != place:
                await self.api.show(incoming.chat_id, message, _waiting(now, language))
            place = now
        chat = self.state.chat(incoming.chat_id)  # only now: the answers before this one belong to it
        asked = self._conversation(chat, normalize(incoming.text).strip())
        wish = Wish(
            min(chat.choices.length or self.manners.tokens, self.manners.max_tokens),
            chat.choices.temperature or self.manners.temperature,
            incoming.update_id % 2**31,  # the same answer should it have to be written again
        )
        draft = Draft(self.backend, asked, wish)
        text = await written(draft, self.api, incoming.chat_id, message)
        self._tokens[incoming.user_id].take(self.backend.count(asked[-1]["content"] + text))
        if self.manners.log_text:
            log.info("%r was answered %r", asked[-1]["content"], text)
        if draft.failed or not text:
            reply = Reply(say("failed" if draft.failed else "nothing", language))
            self.state.write(incoming.update_id, reply)
        else:
            rateable = bool(self.record) and chat.choices.keep and not incoming.in_group
            reply = Reply(text, RATING if rateable else "")
            self.state.write_answer(incoming, reply, asked, chat.epoch, rateable)
        return reply

    def _conversation(self, chat: Chat, text: str) -> list[Message]:
        """The chat's last turns, as many as `history_tokens` hold, and the new message."""
        room, turns = self.manners.history_tokens, list[Message]()
        for asked, answered in reversed(list(zip(chat.history[::2], chat.history[1::2], strict=True))):
            room -= self.backend.count(asked["content"]) + self.backend.count(answered["content"])
            if room < 0:
                break
            turns = [asked, answered, *turns]
        return [*turns, {"role": "user", "content": text}]

    async def _placed(self, incoming: Incoming, count: int, text: str = "…") -> list[int]:
        """At least `count` messages for the reply: those there are, and new ones."""
        ids = self.state.progress(incoming.update_id).placed
        while len(ids) < count:
            ids.append(await self.api.send(incoming.chat_id, text, incoming.message_id if incoming.in_group else None))
            self.state.place(incoming.update_id, ids)
        return ids

    async def _deliver(self, incoming: Incoming, reply: Reply) -> None:
        parts = split(reply.text)
        messages = await self._placed(incoming, len(parts))
        for n, (message, part) in enumerate(zip(messages, parts, strict=False)):
            rows = self._rows(incoming, reply.buttons) if n == len(parts) - 1 else ()
            await self.api.edit(incoming.chat_id, message, part, rows)

    async def _admit(self, incoming: Incoming) -> None:
        """Say in place of a reply that Telegram refused that there is none: "…" must not stand there for ever."""
        language = language_of(self.state.chat(incoming.chat_id).choices, incoming.language)
        for message in self.state.progress(incoming.update_id).placed[-1:]:
            with contextlib.suppress(RefusedError, ChatClosedError):
                await self.api.edit(incoming.chat_id, message, say("failed", language))

    def _rows(self, incoming: Incoming, buttons: str) -> Rows:
        if buttons == RATING:
            return [[("👍", f"up:{incoming.update_id}"), ("👎", f"down:{incoming.update_id}")]]
        if buttons == SETTINGS:
            choices = self.state.chat(incoming.chat_id).choices
            recording = self.record is not None and not incoming.in_group  # one cannot consent for all
            return settings_rows(choices, language_of(choices, incoming.language), recording)
        return ()

    async def _pressed(self, incoming: Incoming, was_here: bool) -> None:
        """A button: may be handled again after a restart, with the same result."""
        language = language_of(self.state.chat(incoming.chat_id).choices, incoming.language)
        said = ""
        if not was_here and (seconds := self._too_fast(incoming)):
            said = say("slower", language, seconds=seconds)
        elif not self.manners.allow or incoming.user_id in self.manners.allow:
            what, _, number = incoming.text.partition(":")
            if (rating := RATINGS.get(what)) and number.isdecimal() and int(number) < LARGEST:
                said = say(await self._rate(incoming, int(number), rating), language)
            elif choice := chosen(incoming.text):
                await self._choose(incoming, choice)
        await self.api.acknowledge(incoming.callback_id, said)

    async def _choose(self, incoming: Incoming, choice: dict[str, Any]) -> None:
        """Note a choice and show it, until what is shown is what is chosen: edits may overtake each other."""
        self.state.choose(incoming.chat_id, replace(self.state.chat(incoming.chat_id).choices, **choice))
        shown: Rows | None = None
        while (rows := self._rows(incoming, SETTINGS)) != shown:
            text = say("settings", language_of(self.state.chat(incoming.chat_id).choices, incoming.language))
            await self.api.edit(incoming.chat_id, incoming.message_id, text, rows)
            shown = rows

    async def _rate(self, incoming: Incoming, number: int, rating: Rating) -> str:
        """Write a rated answer down; what to say to that. A kill between the two steps may write it twice, none loses it."""
        found = self.state.rateable(number, incoming.chat_id)
        if found and self.record:
            try:
                self.record(number, *found, rating)
            except OSError as error:  # the buttons stay, for when there is room again
                log.error("a rated answer could not be kept (%s): make room on the disk", error.strerror or error)
                return "failed"
            self.state.rated(number)
        await self.api.take_buttons(incoming.chat_id, incoming.message_id)
        return "thanks" if found and self.record else "forgotten"


def _waiting(place: int, language: str) -> str:
    return say("place", language, place=place) if place else say("wait", language)
