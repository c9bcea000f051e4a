"""A conversation in the terminal."""

import dataclasses
import sys

from oracle.chat import Message
from oracle.cli import UserError
from oracle.generate import Engine
from oracle.sampling import SamplingParams
from oracle.text import normalize

HELP = "/reset begins anew, /retry answers again, /quit ends (as Ctrl-D does); Ctrl-C breaks an answer off"


def converse(engine: Engine, params: SamplingParams, system: str) -> None:
    """Talk until the input ends. Raises UserError for a model that was never taught to answer."""
    if engine.template is None:
        raise UserError(
            f"{engine.name} is a base model, which continues texts and does not answer: teach it with python"
            " finetune_chat.py, or let it continue a text with --start=…"
        )
    params = dataclasses.replace(params, stop_tokens=engine.template.stop_tokens)
    beginning: list[Message] = [{"role": "system", "content": normalize(system)}] if system else []
    history = list(beginning)
    print(f"{engine.name}: a small model, trained on one paper; what it says may be invented. {HELP}")
    while True:
        said = _ask(engine.name)
        if said in (None, "/quit"):
            return
        if said == "/reset":
            history = list(beginning)
        elif said == "/retry" and history and history[-1]["role"] == "assistant":
            history.pop()
            history.append(_answer(engine, history, params, len(history)))
        elif said.startswith("/"):
            print(HELP)
        elif said:
            history.append({"role": "user", "content": said})
            history.append(_answer(engine, history, params, len(history)))


def _ask(name: str) -> str | None:
    """A line from the user, None at the end of the input."""
    try:
        return normalize(input("> ")).strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None
    except UnicodeDecodeError:
        raise UserError(f"{name}: the text is not UTF-8 as this console sends it; set the console to UTF-8") from None


def _answer(engine: Engine, history: list[Message], params: SamplingParams, turn: int) -> Message:
    """The model's reply, shown while it is written; Ctrl-C keeps what was said."""
    assert engine.template
    room = engine.block_size - min(params.max_new_tokens, engine.block_size // 2)
    prompt, dropped = engine.template.trimmed(history, room)
    if dropped:
        print(f"(the {dropped} oldest messages no longer fit into the context of {engine.block_size} tokens)")
    request = engine.submit(prompt, dataclasses.replace(params, seed=params.seed + turn))
    try:
        while not request.finish_reason:
            engine.step()
            print(request.take(), end="", flush=True)
    except KeyboardInterrupt:
        request.cancel()
        engine.step()
        sys.stdout.write(" …")
    print()
    return {"role": "assistant", "content": request.text}
