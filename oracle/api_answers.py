"""Answers in the shapes of OpenAI's API: whole, and as the chunks of a stream of server-sent events."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oracle.api import Ask
from oracle.plaintext import clean_output
from oracle.sampling import TokenLogprob
from oracle.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass
class Shaper:
    """Shapes the answer to one request."""

    ask: Ask
    model: str
    tokenizer: Tokenizer
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    _offset: int = 0  # characters of the tokens whose log-probabilities were listed

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.ask.chat else 'cmpl'}-{uuid.uuid4().hex}"

    def whole(self, text: str, logprobs: Sequence[TokenLogprob], reason: str, tokens: int) -> dict[str, Any]:
        """The answer in one piece."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choice = self._choice(said if self.ask.chat else {"text": text}, logprobs, reason)
        return self._envelope([choice], "chat.completion") | {"usage": self._usage(tokens)}

    def first(self) -> dict[str, Any] | None:
        """What a chat's stream begins with: who speaks."""
        if not self.ask.chat:
            return None
        return self._chunk([self._choice({"delta": {"role": "assistant", "content": ""}}, (), None)])

    def piece(self, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return self._chunk(
            [self._choice({"delta": {"content": text}} if self.ask.chat else {"text": text}, logprobs, None)]
        )

    def last(self, reason: str) -> dict[str, Any]:
        return self._chunk([self._choice({"delta": {}} if self.ask.chat else {"text": ""}, (), reason)])

    def usage(self, tokens: int) -> dict[str, Any]:
        """The chunk after the last one, for those who asked for it."""
        return self._chunk([]) | {"usage": self._usage(tokens)}

    def _usage(self, tokens: int) -> dict[str, int]:
        read = len(self.ask.prompt)
        return {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": read + tokens}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._envelope(choices, "chat.completion.chunk")
        return chunk | {"usage": None} if self.ask.include_usage else chunk

    def _envelope(self, choices: list[dict[str, Any]], chat_object: str) -> dict[str, Any]:
        what = {
            "id": self.id,
            "object": chat_object if self.ask.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return what | {"messages_dropped": self.ask.messages_dropped} if self.ask.messages_dropped else what

    def _choice(self, said: dict[str, Any], logprobs: Sequence[TokenLogprob], reason: str | None) -> dict[str, Any]:
        shown = None
        if self.ask.logprobs is not None and logprobs:
            shown = self._chat_logprobs(logprobs) if self.ask.chat else self._completion_logprobs(logprobs)
        return {"index": 0, **said, "logprobs": shown, "finish_reason": reason}

    def _chat_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            piece = self.tokenizer.piece_bytes[token]
            return {"token": self._shown(token), "logprob": logprob, "bytes": list(piece)}

        content = [
            entry(item.token, item.logprob) | {"top_logprobs": [entry(*top) for top in item.top[: self.ask.logprobs]]}
            for item in logprobs
        ]
        return {"content": content, "refusal": None}

    def _completion_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        tokens, offsets = [self._shown(item.token) for item in logprobs], []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        top = [{self._shown(token): value for token, value in item.top[: self.ask.logprobs]} for item in logprobs]
        return {
            "tokens": tokens,
            "token_logprobs": [item.logprob for item in logprobs],
            "top_logprobs": top if self.ask.logprobs else None,
            "text_offset": offsets,
        }

    def _shown(self, token: int) -> str:
        """A token's text; a control token's name, since one may be among the likeliest; half a character as U+FFFD."""
        piece = self.tokenizer.piece_bytes[token]
        return clean_output(piece.decode("utf-8", errors="replace")) if piece else self.tokenizer.piece(token)


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event (HTML standard, 9.2) that carries JSON, whose line ends are escaped."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
