"""The bot's token: read from where others cannot see it, and shown nowhere.

Whoever has the token is the bot. It stands in the address of every request, so any library that logs addresses or
raises errors about them would show it.
"""

import contextlib
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from oracle.cli import UsageError, UserError
from oracle.private import read_private

VARIABLE = "TELEGRAM_BOT_TOKEN"
SHAPE = re.compile(r"[0-9]{5,}:[A-Za-z0-9_-]{30,}")
HIDDEN = "<token>"


def refuse_on_command_line(argv: Sequence[str]) -> None:
    """Raises UsageError for a token among the arguments, which every user of the machine can read."""
    if any(SHAPE.search(argument) for argument in argv):
        raise UsageError(
            "a token stands on the command line, where every user of this machine sees it: have @BotFather revoke it,"
            f" and give the new one in the variable {VARIABLE} or with --token_file"
        )


def read_token(token_file: str, environment: Mapping[str, str] = os.environ) -> str:
    """The token in the file, or in the environment. Raises UserError if there is none or others may read the file."""
    if token_file:
        where, text = token_file, read_private(token_file, "token_file", environment)
    else:
        where, text = VARIABLE, environment.get(VARIABLE, "")
    token = text.strip()
    if not token:
        raise UserError(
            f"{where} holds no token; @BotFather on Telegram gives one: put it into a file of mode 0600 and name that"
            f" with --token_file, or into the variable {VARIABLE}"
        )
    if not SHAPE.fullmatch(token):
        raise UserError(
            f"{where} holds no Telegram token, which looks like 123456:letters-and-digits and stands alone; copy it again"
        )
    return token


class Hider:
    """Takes secrets out of everything this process logs or prints as an error, whichever library logs it."""

    def __init__(self, token: str) -> None:
        # The second half alone too: addresses may write the colon as %3A.
        self._secrets = (token, token.partition(":")[2])

    def clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def install(self) -> None:
        """From now on: log records when they are made, before any handler sees them, and errors that nobody catches."""
        logging.setLogRecordFactory(self._record(logging.getLogRecordFactory()))
        sys.excepthook = self._show
        sys.unraisablehook = lambda u: self._show(u.exc_type, u.exc_value, u.exc_traceback)
        threading.excepthook = lambda a: self._show(a.exc_type, a.exc_value, a.exc_traceback)

    def _record(self, make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
        def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            message = str(record.msg)
            with contextlib.suppress(Exception):  # arguments that do not fit are logging's to report
                message = record.getMessage()
            if (cleaned := self.clean(message)) != message:
                record.msg, record.args = cleaned, ()
            if record.exc_info and record.exc_info[0]:
                # Formatted here and now, so that no handler sees the exception itself.
                record.exc_text = self.clean("".join(traceback.format_exception(*record.exc_info))).rstrip()
                record.exc_info = None
            return record

        return factory

    def _show(
        self, kind: type[BaseException], error: BaseException | None, where: TracebackType | None
    ) -> None:  # the shape of sys.excepthook
        text = "".join(traceback.format_exception(kind, error, where))
        print(self.clean(text), file=sys.stderr, end="", flush=True)
