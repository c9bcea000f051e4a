"""Good text to be spoilt: a corpus, conversations, or sentences that somebody has corrected."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from oracle.conversations import read_conversations
from oracle.corpus import OPENERS, CorpusReader, kind
from oracle.jsonl import BadLineError, read_lines
from oracle.text import normalize

# What a corrected sentence answers.
CORRECT_THIS = {
    "el": "Διόρθωσε τα λάθη του κειμένου.",
    "en": "Correct the mistakes in this text.",
    "pl": "Popraw błędy w tekście.",
    "sr": "Исправи грешке у тексту.",
}
_SENTENCE_END = re.compile(r"(?<=[.!?;…»”\"])\s+(?=[^\W\d_a-zα-ωά-ώа-џ]|[«„“\"–—-])")


class Good(NamedTuple):
    """A prompt, the text to prefer, and where it is from; `wrong`: the same text as somebody really got it wrong."""

    id: str
    prompt: str
    chosen: str
    source: str
    wrong: str = ""


def good_texts(
    path: Path, language: str, prompt_words: int, chosen_words: int, per_document: int, skip: bool = False
) -> Iterator[Good]:
    """What `path` holds, in whichever of the shapes: it is recognised by its first line.

    Documents give up to `per_document` passages each; conversations their first question and answer. Raises UserError
    naming file and line; `skip` leaves bad lines out.
    """
    keys = first_keys(path)
    if {"wrong", "right"} <= keys:
        yield from read_lines(path, lambda row: _corrected(row, language), skip)[0]
    elif keys and "text" not in keys:
        for conversation in read_conversations(path, skip).items:
            answer = next(m["content"] for m in conversation.messages if m["role"] == "assistant")
            yield Good(conversation.id, conversation.question, answer, "conversation")
    else:
        for document in CorpusReader(path, keep_titles=False, skip_bad_lines=skip):
            for number, (prompt, chosen) in enumerate(
                passages(normalize(document.text), prompt_words, chosen_words, per_document)
            ):
                yield Good(f"{document.id}/{number}", prompt, chosen, "corpus")


def first_keys(path: Path) -> set[str]:
    """The keys of the first line of a .jsonl file, if it has any."""
    if not path.is_file() or kind(path) != ".jsonl":
        return set()
    with OPENERS.get(path.suffix, Path.open)(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        row = json.loads(first.decode("utf-8-sig"))
    except ValueError:
        return set()  # the reader will say what is wrong with it
    return set(row) if isinstance(row, dict) else set()


def _corrected(row: dict[str, Any], language: str) -> Good:
    wrong, right = row.get("wrong"), row.get("right")
    if not isinstance(wrong, str) or not isinstance(right, str) or not wrong.strip() or not right.strip():
        raise BadLineError('a corrected sentence has "wrong" and "right", both of them texts')
    wrong, right = normalize(wrong).strip(), normalize(right).strip()
    return Good(str(row.get("id", "")), f"{CORRECT_THIS[language]}\n\n{wrong}", right, "corrected", wrong)


def passages(text: str, prompt_words: int, chosen_words: int, most: int) -> Iterator[tuple[str, str]]:
    """Successive (beginning, continuation) of a text, cut at ends of sentences, at about so many words each."""
    sentences = [s for paragraph in text.split("\n") for s in _SENTENCE_END.split(paragraph.strip()) if s]
    place = made = 0
    while made < most and place < len(sentences):
        prompt, place = _gather(sentences, place, prompt_words)
        chosen, place = _gather(sentences, place, chosen_words)
        if len(chosen.split()) >= max(5, chosen_words // 4):
            yield prompt, chosen
            made += 1


def _gather(sentences: list[str], place: int, words: int) -> tuple[str, int]:
    """Whole sentences from `place` on, at least one and up to about `words` words, and where the next one is."""
    taken: list[str] = []
    count = 0
    while place < len(sentences) and (not taken or count + len(sentences[place].split()) <= words):
        taken.append(sentences[place])
        count += len(sentences[place].split())
        place += 1
    return " ".join(taken), place
