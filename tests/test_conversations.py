"""Conversations in every shape, and every way a file of them can be wrong."""

import json

import pytest

from oracle.cli import UserError
from oracle.conversations import Conversation, read_conversations, split

USER, ANSWER = {"role": "user", "content": "Πού;"}, {"role": "assistant", "content": "Εκεί."}
SAME = [
    {"messages": [USER, ANSWER]},
    {"conversations": [{"from": "human", "value": "Πού;"}, {"from": "gpt", "value": "Εκεί."}]},
    {"instruction": "Πού;", "input": "", "output": "Εκεί."},
    {"question": "Πού;", "answer": "Εκεί."},
    {"prompt": "Πού;", "completion": "Εκεί."},
    {"prompt": [USER], "completion": [ANSWER]},
]


def write(tmp_path, *lines, name="c.jsonl"):
    path = tmp_path / name
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("record", SAME)
def test_every_shape_says_the_same(tmp_path, record):
    read = read_conversations(write(tmp_path, record, record))
    assert read.items[0].messages == (USER, ANSWER) and read.items[0].learn == (False, True) and len(read.items) == 2


def test_what_each_shape_has_besides(tmp_path):
    alpaca = {"instruction": "Α;", "input": "κείμενο", "output": "Β.", "system": "Σ", "history": [["1;", "2."]]}
    messages = read_conversations(write(tmp_path, alpaca)).items[0].messages
    assert [m["content"] for m in messages] == ["Σ", "1;", "2.", "Α;\n\nκείμενο", "Β."]
    context = {"context": "Κείμενο.", "question": "Πού;", "answer": "Εκεί.", "article": "a1", "id": "q1", "score": 3}
    read = read_conversations(write(tmp_path, context))
    item = read.items[0]
    assert (item.question, item.article, item.id) == ("Κείμενο.\n\nΠού;", "a1", "q1") and read.unused == {"score": 1}
    weighted = {"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER]}
    assert read_conversations(write(tmp_path, weighted)).items[0].learn == (False, False, False, True)
    developer = {"messages": [{"role": "developer", "content": "Σ"}, USER, ANSWER]}
    assert read_conversations(write(tmp_path, developer)).items[0].messages[0]["role"] == "system"


def test_a_byte_order_mark_and_blank_lines_are_nothing(tmp_path):
    path = write(tmp_path, SAME[0], "", SAME[0])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_conversations(path).items) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "con', "no JSON, or cut off"),
        ("[1, 2]", "not a JSON object"),
        ('{"question": "Πού;", "answer": NaN}', "NaN is no JSON"),
        ({"mesages": []}, "did you mean messages"),
        ({}, r"keys \(none\)"),
        ({"messages": []}, "no list of messages"),
        ({"messages": [ANSWER]}, "assistant after system"),
        ({"messages": [USER]}, "no answer at the end"),
        ({"messages": [USER, ANSWER, ANSWER]}, "message 3: assistant after assistant"),
        ({"messages": [USER, {"role": "system", "content": "Σ"}, ANSWER]}, "stands first"),
        ({"messages": [USER, {"role": "bot", "content": "Σ"}]}, "unknown role 'bot'"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "message 2: the assistant's content is empty"),
        ({"messages": [USER, {"role": "assistant", "content": 3}]}, "empty or no text"),
        ({"messages": [USER, ANSWER | {"tool_calls": []}]}, "unknown key 'tool_calls'"),
        ({"messages": [USER, ANSWER | {"weight": 2}]}, "weight 2"),
        ({"instruction": "Α;"}, "output is missing"),
        ({"instruction": "Α;", "output": "Β.", "history": [["1"]]}, "history"),
        ({"question": "Α;", "answer": ["Β"]}, "answer is no text"),
        ({"conversations": [{"from": "human", "value": "Α"}, {"from": "x", "value": "Β"}]}, "unknown role 'x'"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path, line, message):
    with pytest.raises(UserError, match=f"c.jsonl line 2: .*{message}"):
        read_conversations(write(tmp_path, "", line))


def test_a_line_that_is_no_utf8_and_one_without_end(tmp_path, monkeypatch):
    path = write(tmp_path, SAME[0])
    path.write_bytes(path.read_bytes() + b'{"question": "\xff"}\n')
    with pytest.raises(UserError, match="line 2: invalid UTF-8"):
        read_conversations(path)
    monkeypatch.setattr("oracle.jsonl.LONGEST", 1000)
    long = write(tmp_path, SAME[0], {"question": "α" * 5000, "answer": "β"}, SAME[0])
    with pytest.raises(UserError, match="line 2: longer than"):
        read_conversations(long)
    monkeypatch.setattr("oracle.jsonl.MOST_SKIPPED", 0.5)
    assert len(read_conversations(long, skip=True).items) == 2


def test_skipping_has_a_limit(tmp_path):
    read = read_conversations(write(tmp_path, *[SAME[0]] * 5, "{"), skip=True)
    assert len(read.items) == 5 and "line 6" in read.skipped[0] and "1 bad lines left out" in str(read)
    with pytest.raises(UserError, match="2 of 7 lines are bad, more than 1%"):
        read_conversations(write(tmp_path, *[SAME[0]] * 5, "{", "}"), skip=True)


def test_mixed_shapes_empty_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="entry 1 has the shape of OpenAI messages, entry 2 that of Alpaca"):
        read_conversations(write(tmp_path, SAME[0], SAME[2]))
    with pytest.raises(UserError, match="holds nothing"):
        read_conversations(write(tmp_path, "", " "))
    with pytest.raises(UserError, match="no such file"):
        read_conversations(tmp_path / "none.jsonl")


def test_the_split_keeps_articles_and_questions_on_one_side():
    items = [
        Conversation(f"{a}-{q}", f"a{a}" if a else "", ({"role": "user", "content": f"q{q}"}, ANSWER), (False, True))
        for a in range(60)
        for q in (a, a + 100 if a % 7 else 3)
    ]
    train, val = split(items, 0.2)
    assert len(train) + len(val) == len(items) and 6 <= len(val) <= 50
    for key in (lambda c: c.article, lambda c: c.question):
        assert not {key(c) for c in train if key(c)} & {key(c) for c in val}
    assert split(items[::-1], 0.2)[1] == val[::-1]
    assert [len(side) for side in split(items[2:3] + items[4:5], 0.001)] == [1, 1]
    assert [len(side) for side in split(items[:1], 0.5)] in ([1, 0], [0, 1])
