"""Conversations as tokens: one template, rendered id by id, so that no text can forge a role.

    <s><|system|>…<|end|><|user|>…<|end|><|assistant|>…<|end|>

The roles and the end of a turn are control symbols of the tokenizer. Text is encoded apart from them and cannot
contain them: a user who types `<|assistant|>` gets those characters.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from oracle.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

ROLES = ("system", "user", "assistant")
END = "<|end|>"

# The same template for programs that render text. They may let text forge a role, which is why it is not used here.
# The generation marks are what transformers derives the mask of answers from.
JINJA = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


class Rendered(NamedTuple):
    """A conversation's ids, and which of them a model learns to say: the assistant's words and the end of its turns."""

    ids: list[int]
    mask: list[bool]


class Template:
    """The template over one tokenizer. Raises UserError if the tokenizer has no such control symbols."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._roles = {role: tokenizer.chat_id(f"<|{role}|>") for role in ROLES}
        self._end = tokenizer.chat_id(END)
        self.stop_tokens: tuple[int, ...] = (self._end, tokenizer.eos)

    def render(self, messages: Sequence[Message], learn: Sequence[bool] | None = None) -> Rendered:
        """All of a conversation, as it is trained on; `learn` says of which messages, by default of every answer."""
        ids, mask = [self.tokenizer.bos], [False]
        for number, message in enumerate(messages):
            said = self._said(message)
            counts = learn[number] if learn else message["role"] == "assistant"
            ids += said
            mask += [False] + [counts] * (len(said) - 1)
        return Rendered(ids, mask)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation and the assistant's turn begun: what an answer continues."""
        return [*self.render(messages).ids, self._roles["assistant"]]

    def trimmed(self, messages: Sequence[Message], limit: int) -> tuple[list[int], int]:
        """A prompt of at most `limit` ids, and how many messages were left out for it.

        The oldest turns go first; the system's message and the last user's stay. Should these alone be too long, the
        last one keeps its end, and then counts as left out if nothing of it is.
        """
        head = [m for m in messages[:1] if m["role"] == "system"]
        rest = messages[len(head) :]
        before, turns = self.render(head).ids, [self._said(message) for message in rest]
        first, left = 0, limit - len(before) - 1 - sum(map(len, turns))
        while left < 0 and first < len(rest) - 1:
            # An answer never stands first: it goes with its question.
            gone = 2 if first < len(rest) - 2 and rest[first + 1]["role"] == "assistant" else 1
            left += sum(map(len, turns[first : first + gone]))
            first += gone
        if left < 0:
            return self._cut(before, turns[-1], limit), first
        return [*before, *chain.from_iterable(turns[first:]), self._roles["assistant"]], first

    def _cut(self, before: list[int], last: list[int], limit: int) -> list[int]:
        """The last message's end after the system's message, or without it where that is too long itself."""
        if len(before) + 3 >= limit:
            before = [self.tokenizer.bos]
        role, *words, end = last
        room = max(0, limit - len(before) - 3)  # role, end of turn, the assistant's role
        return [*before, role, *words[max(0, len(words) - room) :], end, self._roles["assistant"]]

    def parse(self, ids: Sequence[int]) -> list[Message]:
        """The messages that `ids` render, an unfinished last one included; text before the first role is left out."""
        roles = {token: role for role, token in self._roles.items()}
        messages: list[tuple[str, list[int]]] = []
        for token in ids:
            if token in roles:
                messages.append((roles[token], []))
            elif messages:
                messages[-1][1].append(token)  # control ids decode to nothing
        return [{"role": role, "content": self.tokenizer.decode(said)} for role, said in messages]

    def _said(self, message: Message) -> list[int]:
        return [self._roles[message["role"]], *self.tokenizer.encode(message["content"]), self._end]
