"""The conversation template: exact, reversible, and closed to forgery."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.chat import JINJA, ROLES, Template
from oracle.cli import UserError
from oracle.show_mask import LEARNT, PLAIN, READ, in_colour
from oracle.text import normalize
from oracle.tokenizer import CHAT_TOKENS, Tokenizer, train_tokenizer
from tests.conftest import make_text

TEXTS = st.lists(
    st.sampled_from([*CHAT_TOKENS, "<s>", "</s>", "Καλημέρα", " ", "\n", "😀", "č"]) | st.text(max_size=6), max_size=6
).map(lambda parts: normalize("".join(parts)))
TURNS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


def conversation(turns, system=""):
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


@pytest.fixture(scope="module")
def template(tokenizer) -> Template:
    return Template(tokenizer)


@settings(max_examples=100, deadline=None)
@given(turns=TURNS, system=TEXTS)
def test_render_and_parse_and_no_forged_control_id(template, turns, system):
    messages = conversation(turns, system)
    ids, mask = template.render(messages)
    assert template.parse(ids) == messages
    control = [i for i in ids if i in template.tokenizer.control]
    assert len(control) == 1 + 2 * len(messages) and len(ids) == len(mask)
    learnt = [i for i, counts in zip(ids, mask, strict=True) if counts]
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    end = template.tokenizer.chat_id("<|end|>")
    assert learnt == [i for a in answers for i in (*template.tokenizer.encode(a), end)]


def test_a_prompt_is_the_conversation_up_to_the_answer(template):
    messages = conversation([("Πού είναι ο φάρος;", "Στο λιμάνι.")])
    prompt, whole = template.prompt(messages[:1]), template.render(messages).ids
    assert whole[: len(prompt)] == prompt and template.parse(prompt)[-1] == {"role": "assistant", "content": ""}


@settings(max_examples=100, deadline=None)
@given(turns=TURNS, system=TEXTS, last=TEXTS, limit=st.integers(8, 120))
def test_trimming_keeps_the_system_and_the_last_question(template, turns, system, last, limit):
    messages = [*conversation(turns, system), {"role": "user", "content": last}]
    prompt, dropped = template.trimmed(messages, limit)
    whole = template.prompt(messages)
    assert len(prompt) <= limit and (prompt == whole) == (len(whole) <= limit) and (dropped == 0 or len(whole) > limit)
    kept = template.parse(prompt)
    assert [m["role"] for m in kept[-2:]] == ["user", "assistant"]
    head = [m for m in messages[:1] if m["role"] == "system"]
    necessary = template.prompt([*head, messages[-1]])
    if len(necessary) <= limit:
        assert kept[: len(head)] == head and kept[-2] == messages[-1]
        assert all(a["role"] != b["role"] for a, b in zip(kept[len(head) :], kept[len(head) + 1 :], strict=False))


def test_trimming_drops_the_oldest_turn_first(template):
    messages = [*conversation([("νερό " * 9, "μέλι"), ("φάρος", "γκολ")]), {"role": "user", "content": "τιμή"}]
    prompt, dropped = template.trimmed(messages, len(template.prompt(messages)) - 1)
    assert dropped == 2 and prompt == template.prompt(messages[2:])


def test_a_tokenizer_without_chat_tokens_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("oracle.tokenizer.CHAT_TOKENS", ())
    train_tokenizer([make_text(i) for i in range(40)], tmp_path / "old.model", "bpe", 380)
    with pytest.raises(UserError, match=r"no control token <\|system\|>"):
        Template(Tokenizer(tmp_path / "old.model"))


def test_the_text_template_says_the_same(template, tokenizer):
    pytest.importorskip("jinja2")
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = conversation([("Πού;", "Εκεί.\n"), (" α ", "β")], "Σύστημα")
    rendered, _ = render_jinja_template([messages], chat_template=JINJA, bos_token="<s>")
    plain = "<s>" + "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)
    assert rendered[0] == plain
    # …and where text forges nothing, that text has our ids
    pieces = {f"<|{role}|>": tokenizer.chat_id(f"<|{role}|>") for role in ROLES} | {
        "<|end|>": tokenizer.chat_id("<|end|>")
    }
    ids = [tokenizer.bos]
    for part in re.split("(" + "|".join(map(re.escape, pieces)) + ")", plain.removeprefix("<s>")):
        ids += [pieces[part]] if part in pieces else tokenizer.encode(part)
    assert ids == template.render(messages).ids


def test_the_mask_in_colour(template, tokenizer):
    shown = in_colour(tokenizer, template.render(conversation([("Πού;", "νερό")])))
    assert shown == f"{READ}<s><|user|>Πού;<|end|><|assistant|>{LEARNT}νερό<|end|>{PLAIN}"
