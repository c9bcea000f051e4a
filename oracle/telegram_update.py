"""What Telegram delivers, reduced to what the bot acts on. Anything else, however malformed, is nothing."""

import re
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "other", "button"]
LARGEST = 2**52  # "at most 52 significant bits" (Bot API, Chat)


@dataclass(frozen=True)
class Me:
    """The bot's own account."""

    id: int
    username: str


@dataclass(frozen=True)
class Incoming:
    """A message or a pressed button, from a person."""

    update_id: int
    kind: Kind
    chat_id: int
    user_id: int
    message_id: int  # of the message; of the one the button is under
    date: int  # seconds since 1970; of a button: when its message was sent
    text: str  # a button's data; empty for what is not text
    language: str  # IETF tag such as "el", empty if unknown
    callback_id: str = ""  # of a button

    @property
    def in_group(self) -> bool:
        return self.chat_id < 0

    @property
    def command(self) -> str:
        """`reset` for "/reset" and "/reset@bot …"; empty for what is no command."""
        if self.kind != "text" or not self.text.startswith("/"):
            return ""
        return self.text[1:].split(maxsplit=1)[0].partition("@")[0].lower() if self.text[1:].strip() else ""


def number_of(update: Any) -> int | None:
    """The update's number, None for what is no update."""
    number = update.get("update_id") if isinstance(update, dict) else None
    return number if type(number) is int and 0 <= number < LARGEST else None


def understand(update: Any, me: Me) -> Incoming | None:
    """What a person said to the bot. None for everything else: edits, channels, other bots, others' talk in groups."""
    try:
        if "callback_query" in update:
            return _button(update)
        return _message(update, me) if "message" in update else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _button(update: dict[str, Any]) -> Incoming:
    query = update["callback_query"]
    message, user = query["message"], query["from"]
    return Incoming(
        _int(update["update_id"]), "button", _int(message["chat"]["id"]), _int(user["id"]), _int(message["message_id"]),
        _int(message["date"]), _text(query["data"]), _text(user.get("language_code") or ""), _text(query["id"]),
    )  # fmt: skip


def _message(update: dict[str, Any], me: Me) -> Incoming | None:
    message = update["message"]
    chat, user = message["chat"], message["from"]
    text = message.get("text")
    if user.get("is_bot") or (_int(chat["id"]) < 0 and not _is_meant(message, me)):
        return None
    if isinstance(text, str) and _int(chat["id"]) < 0:
        text = re.sub(f"@{re.escape(me.username)}\\b", "", text, flags=re.IGNORECASE).strip()
    return Incoming(
        _int(update["update_id"]), "text" if isinstance(text, str) else "other", _int(chat["id"]), _int(user["id"]),
        _int(message["message_id"]), _int(message["date"]), _text(text) if isinstance(text, str) else "",
        _text(user.get("language_code") or ""),
    )  # fmt: skip


def _is_meant(message: dict[str, Any], me: Me) -> bool:
    """In a group: a reply to the bot, its name, or a command without another bot's name."""
    text = message.get("text")
    if not isinstance(text, str):
        return False
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    to = message.get("reply_to_message") or {}
    named = f"@{me.username}".lower() in text.lower()
    return named or (first.startswith("/") and "@" not in first) or to.get("from", {}).get("id") == me.id


def _text(value: Any) -> str:
    """As text that can be written down: JSON may hold halves of characters (lone surrogates)."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _int(value: Any) -> int:
    if type(value) is not int or abs(value) >= LARGEST:
        raise TypeError
    return value
