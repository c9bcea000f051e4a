"""OpenAI's requests, checked and turned into prompts: pure functions of bytes, defaults and a tokenizer.

Format: https://platform.openai.com/docs/api-reference (chat/create, completions/create). Extensions under the names
others gave them: top_k, min_p, repetition_penalty. Keys that are not known are ignored, as clients expect.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oracle.chat import Message, Template
from oracle.cli import UserError
from oracle.sampling import SamplingParams
from oracle.text import normalize
from oracle.tokenizer import Tokenizer
from oracle.wire import RequestError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES, MAX_STOPS, MAX_LOGPROBS = 500, 4, 20
BASE_MODEL = (
    "this is a base model: it continues text and holds no conversation; use /v1/completions,"
    " or teach it with finetune_chat.py and serve the run directory that makes"
)


@dataclass(frozen=True)
class Served:
    """The model as requests see it, with what a request leaves unsaid and may not exceed."""

    name: str
    tokenizer: Tokenizer
    template: Template | None  # None: a base model
    block_size: int
    defaults: SamplingParams
    max_answer_tokens: int


@dataclass(frozen=True)
class Ask:
    """A checked request."""

    chat: bool
    prompt: list[int]
    params: SamplingParams
    stream: bool
    include_usage: bool
    logprobs: int | None  # likeliest tokens to name at each place; None: nothing of the kind
    store: bool = False  # the user agrees to its being kept
    messages: list[Message] = field(default_factory=list)
    messages_dropped: int = 0  # so that the conversation fits


def parse_json(body: bytes, content_type: str) -> dict[str, Any]:
    """The object in a body. Raises RequestError: 415 another type, 400 no JSON object in UTF-8."""
    if content_type.partition(";")[0].strip().lower() != "application/json":  # also keeps other sites' forms out
        raise RequestError(415, "the body must be JSON; send Content-Type: application/json")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # an escaped half of a surrogate pair is no text
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON in UTF-8", "invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body must be a JSON object", "invalid_json")
    return value


def _no_number(word: str) -> float:
    raise ValueError(word)


def parse_chat(values: Mapping[str, Any], served: Served) -> Ask:
    """A request to /v1/chat/completions. Raises RequestError."""
    if served.template is None:
        raise RequestError(400, BASE_MODEL, "base_model")
    _common(values, served)
    messages = read_messages(values.get("messages"))
    want = _boolean(values, "logprobs")
    top = _integer(values, "top_logprobs", 0, MAX_LOGPROBS) or 0
    logprobs = top if want else None
    limit = _answer_limit(values, served)
    # The answer has its place kept free: a context that overflows would forget the beginning of the conversation.
    room = served.block_size - min(limit, served.block_size // 2)
    try:
        prompt, dropped = served.template.trimmed(messages, room)
    except UserError as error:
        raise RequestError(400, str(error), "context_length_exceeded", "messages") from None
    params = _sampling(
        values, served, min(limit, served.block_size - len(prompt)), logprobs, served.template.stop_tokens
    )
    store = _boolean(values, "store")
    return Ask(True, prompt, params, *_streaming(values), logprobs, store, messages, dropped)


def parse_completion(values: Mapping[str, Any], served: Served) -> Ask:
    """A request to /v1/completions. Raises RequestError."""
    _common(values, served)
    if values.get("echo"):
        raise RequestError(
            400, "echo is not offered: leave it out and put the prompt before the text yourself", param="echo"
        )
    logprobs = _integer(values, "logprobs", 0, MAX_LOGPROBS)
    prompt = _prompt_ids(values.get("prompt"), served)
    if len(prompt) > served.block_size:
        raise RequestError(
            400,
            f"the prompt has {len(prompt):,} tokens, the model's context holds {served.block_size:,}: shorten it",
            "context_length_exceeded",
            "prompt",
        )
    params = _sampling(values, served, _answer_limit(values, served), logprobs, ())
    return Ask(False, prompt, params, *_streaming(values), logprobs)


def read_messages(value: Any) -> list[Message]:
    """OpenAI's messages as the template takes them: system?, then user and assistant in turn, a user's at the end.

    What several messages of one role say in a row is one message; instructions come first; empty turns are left out.
    """
    if not isinstance(value, list) or not value:
        raise RequestError(400, "messages must be a list of at least one {role, content}", param="messages")
    if len(value) > MAX_MESSAGES:
        raise RequestError(400, f"{len(value):,} messages are over the limit of {MAX_MESSAGES}", param="messages")
    system: list[str] = []
    turns: list[Message] = []
    for number, item in enumerate(value):
        role, content = _message(item, f"messages[{number}]")
        if not content.strip():
            continue
        if role == "system":
            system.append(content)
        elif turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{content}"}
        else:
            turns.append({"role": role, "content": content})
    if not turns or turns[0]["role"] != "user" or turns[-1]["role"] != "user":
        raise RequestError(
            400, "a conversation begins and ends with a message of the user that is not empty", param="messages"
        )
    return [{"role": "system", "content": "\n\n".join(system)}] * bool(system) + turns


def _message(item: Any, where: str) -> tuple[str, str]:
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        raise RequestError(400, f"{where}: must be an object whose role is one of {', '.join(ROLES)}", param=where)
    content = item.get("content")
    if content is None and item["role"] == "assistant":
        content = ""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise RequestError(400, f"{where}: this model reads text only; send parts of type text", param=where)
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise RequestError(400, f"{where}: content must be a text or a list of text parts", param=where)
    return ROLES[item["role"]], normalize(content)


def _prompt_ids(value: Any, served: Served) -> list[int]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    bos = served.tokenizer.bos
    if value is None:
        return [bos]
    if isinstance(value, str):
        return [bos, *served.tokenizer.encode(normalize(value))]
    if isinstance(value, list) and all(type(i) is int and 0 <= i < served.tokenizer.vocab_size for i in value):
        return value if value[:1] == [bos] else [bos, *value]
    raise RequestError(
        400, f"prompt must be one text, or a list of token ids below {served.tokenizer.vocab_size}", param="prompt"
    )


def _common(values: Mapping[str, Any], served: Served) -> None:
    """What is asked for and cannot be had."""
    model = values.get("model")
    if model is not None and model != served.name:
        shown = str(model)[:80]
        raise RequestError(
            404, f"the model {shown!r} is not served here; this is {served.name!r}", "model_not_found", "model"
        )
    for name in ("n", "best_of"):
        if values.get(name) not in (None, 1):
            raise RequestError(400, f"{name} must be 1: ask again for another answer", param=name)
    wanted = values.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type", "text") != "text":
        raise RequestError(400, "response_format: this model writes text only", param="response_format")
    # Front ends offer tools to every model, which may always answer without them; only who must have a call is refused.
    choice = values.get("tool_choice", values.get("function_call"))
    if choice not in (None, "none", "auto"):
        raise RequestError(400, "tool_choice: this model calls no tools; leave it out", param="tool_choice")


def _answer_limit(values: Mapping[str, Any], served: Served) -> int:
    """Tokens the answer may have: what is asked for under either name, at most the server's own limit."""
    asked = _integer(values, "max_completion_tokens", 1, None) or _integer(values, "max_tokens", 1, None)
    return min(asked or served.defaults.max_new_tokens, served.max_answer_tokens)


def _sampling(
    values: Mapping[str, Any], served: Served, limit: int, logprobs: int | None, ends: tuple[int, ...]
) -> SamplingParams:
    d = served.defaults
    top_k = _integer(values, "top_k", -1, None)  # -1, elsewhere, keeps all as 0 does here
    seed = _integer(values, "seed", None, None)
    try:
        return SamplingParams(
            max_new_tokens=limit,
            temperature=_number(values, "temperature", 0, 2, d.temperature),
            top_k=d.top_k if top_k is None else max(0, top_k),
            top_p=_number(values, "top_p", 0, 1, d.top_p),
            min_p=_number(values, "min_p", 0, 1, d.min_p),
            repetition_penalty=_number(values, "repetition_penalty", 0, 10, d.repetition_penalty),
            no_repeat_ngram=d.no_repeat_ngram,
            stop=d.stop if values.get("stop") is None else _stops(values["stop"]),
            stop_tokens=ends,
            seed=secrets.randbits(32) if seed is None else seed % 2**63,
            logprobs=0 if logprobs is None else max(1, logprobs),
        )
    except UserError as error:
        raise RequestError(400, str(error)) from None


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError(
            400, f"stop must be a text or a list of at most {MAX_STOPS} texts, none of them empty", param="stop"
        )
    return tuple(map(normalize, stops))


def _streaming(values: Mapping[str, Any]) -> tuple[bool, bool]:
    options = values.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise RequestError(
            400, "stream_options must be an object, such as {include_usage: true}", param="stream_options"
        )
    return _boolean(values, "stream"), _boolean(options or {}, "include_usage")


def _boolean(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if not (value is None or isinstance(value, bool)):
        raise RequestError(400, f"{name} must be true or false", param=name)
    return bool(value)


def _integer(values: Mapping[str, Any], name: str, least: int | None, most: int | None) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    right = type(value) is int and (least is None or value >= least) and (most is None or value <= most)
    if not right:
        raise RequestError(400, f"{name} must be a whole number{_between(least, most)}", param=name)
    return int(value)


def _number(values: Mapping[str, Any], name: str, least: float, most: float, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not least <= value <= most:
        raise RequestError(400, f"{name} must be a number{_between(least, most)}", param=name)
    return float(value)


def _between(least: float | None, most: float | None) -> str:
    if least is None:
        return ""
    return f" of at least {least}" if most is None else f" between {least} and {most}"


Parse = Callable[[Mapping[str, Any], Served], Ask]
