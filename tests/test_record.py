"""Conversations given for training: only with consent, whole lines whatever happens, read by the trainers as they are."""

import json
import os

import pytest

from oracle.cli import UserError
from oracle.conversations import read_conversations
from oracle.preferences import read_pairs
from oracle.record import JsonLines, Recorder
from tests.serving import call, chat, engine_saying, serving

Q = [{"role": "user", "content": "Γεια"}]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def recorder(tmp_path):
    recorder = Recorder(tmp_path / "talks.jsonl")
    yield recorder
    recorder.close()


def test_only_what_was_rated_is_written_and_the_first_rating_counts(recorder, tmp_path):
    recorder.remember("a", Q, "Γεια σου")
    recorder.remember("empty", Q, " ")
    assert lines(tmp_path / "talks.jsonl") == []
    assert recorder.rate("a", "up") and recorder.rate("a", "up") and recorder.rate("a", "down")
    assert not recorder.rate("empty", "up") and not recorder.rate("unknown", "up")
    (line,) = lines(tmp_path / "talks.jsonl")
    assert line["messages"] == [*Q, {"role": "assistant", "content": "Γεια σου"}] and line["rating"] == "up"
    assert lines(tmp_path / "talks-pairs.jsonl") == []


@pytest.mark.parametrize(
    ("ratings", "pairs"),
    [
        ([("b", "up")], ["ba"]),  # the regenerated answer replaced the first
        ([("a", "up")], []),  # nothing is said of the second
        ([("a", "down")], []),
        ([("b", "up"), ("a", "down")], ["ba"]),
        ([("a", "down"), ("b", "up")], ["ba"]),
        ([("a", "up"), ("b", "down")], ["ab"]),
        ([("a", "up"), ("b", "up")], []),
        ([("a", "down"), ("b", "down")], []),
        ([("c", "up"), ("b", "down")], ["ca", "cb"]),
    ],
)
def test_what_is_preferred_to_what(recorder, tmp_path, ratings, pairs):
    for name in "abc"[: 2 + any(answer == "c" for answer, _ in ratings)]:
        recorder.remember(name, Q, f"απάντηση {name}")
    for answer, rating in ratings:
        recorder.rate(answer, rating, ["c", "b", "a"])
    found = [
        line["chosen"][0]["content"][-1] + line["rejected"][0]["content"][-1]
        for line in lines(tmp_path / "talks-pairs.jsonl")
    ]
    assert sorted(found) == pairs
    assert all(line["prompt"] == Q for line in lines(tmp_path / "talks-pairs.jsonl"))


def test_answers_to_other_questions_or_of_the_same_words_make_no_pair(recorder, tmp_path):
    recorder.remember("a", [{"role": "user", "content": "άλλο"}], "ναι")
    recorder.remember("b", Q, "όχι")
    recorder.remember("c", Q, "όχι")
    recorder.rate("a", "down")
    recorder.rate("c", "up", ["a", "b"])
    assert lines(tmp_path / "talks-pairs.jsonl") == []


def test_only_the_rated_answer_is_learnt_from(recorder, tmp_path):
    """What a client says was answered before may be forged, or was rated down."""
    recorder.remember("a", [*Q, {"role": "assistant", "content": "ψέμα"}, *Q], "αλήθεια")
    recorder.rate("a", "up")
    (conversation,) = read_conversations(tmp_path / "talks.jsonl").items
    assert conversation.learn == (False, False, False, True)


def test_all_answers_to_the_same_messages_make_pairs_over_restarts_too(tmp_path):
    path = tmp_path / "talks.jsonl"
    other = [{"role": "user", "content": "άλλο"}]

    def said(*rows):
        """After a start: answers that are remembered and rated."""
        recorder = Recorder(path)
        recorder.recall()
        for name, asked, text, rating in rows:
            recorder.remember(name, asked, text)
            recorder.rate(name, rating, versions=None)
        recorder.close()
        return [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in lines(tmp_path / "talks-pairs.jsonl")]

    assert said(("1", Q, "καλή", "up"), ("2", other, "κακή", "down")) == []
    assert said(("3", Q, "κακή", "down")) == [("καλή", "κακή")]
    assert said(("4", Q, "κακή", "down")) == [("καλή", "κακή")] * 2  # another user's opinion
    with path.open("a", encoding="utf-8") as file:
        file.write('{"messages": 5}\nμουτζούρα\n[]\n')
    assert said(("5", other, "καλή", "up")) == [("καλή", "κακή")] * 3
    assert all(pair["prompt"] in (Q, other) for pair in lines(tmp_path / "talks-pairs.jsonl"))


def test_a_torn_line_is_dropped_and_the_file_is_the_owners(tmp_path):
    path = tmp_path / "new" / "talks.jsonl"
    JsonLines(path).append({"α": 1})
    with path.open("ab") as file:
        file.write('{"β": "κομμέ'.encode())
    again = JsonLines(path)
    again.append({"γ": 2})
    assert lines(path) == [{"α": 1}, {"γ": 2}]
    assert os.name != "posix" or path.stat().st_mode & 0o077 == 0


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    file = JsonLines(tmp_path / "talks.jsonl")
    file.append({"α": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(OSError, match="full"):
        file.append({"β": 2})
    monkeypatch.undo()
    file.append({"γ": 3})
    assert lines(tmp_path / "talks.jsonl") == [{"α": 1}, {"γ": 3}]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="name a file that this user may write"):
        Recorder(tmp_path)


def test_over_the_wire_with_consent_and_without(tokenizer, tmp_path):
    path, said = tmp_path / "talks.jsonl", iter(["μια", "άλλη", "τρίτη"])
    with serving(engine_saying(tokenizer, lambda prompt: tokenizer.encode(next(said))), record=str(path)) as running:
        info = json.loads(call(running, "GET", "/v1/models")[2])["data"][0]
        assert info["recording"] and "rated" in info["notice"]
        ids = [chat(running, "Γεια", store=store)[1]["id"] for store in (True, True, False)]
        rate = lambda **value: call(running, "POST", "/v1/feedback", value)[0]  # noqa: E731
        assert rate(id=ids[2], rating="up") == 404 and rate(id="chatcmpl-0", rating="up") == 404
        assert rate(id=ids[0], rating="good") == 400 and rate(id=7, rating="up") == 400
        assert rate(id=ids[1], rating="up", versions=[ids[0], 7]) == 400
        assert path.read_bytes() == b""
        assert rate(id=ids[1], rating="up", versions=ids) == 200
    (line,), (pair,) = lines(path), lines(tmp_path / "talks-pairs.jsonl")
    assert line["messages"][-1]["content"] == "άλλη"
    assert pair["chosen"][0]["content"] == "άλλη" and pair["rejected"][0]["content"] == "μια"


def test_without_record_nothing_is_offered_or_kept(tokenizer):
    with serving(engine_saying(tokenizer, "ναι")) as running:
        answer = chat(running, "Γεια", store=True)[1]
        assert call(running, "POST", "/v1/feedback", {"id": answer["id"], "rating": "up"})[0] == 404
        info = json.loads(call(running, "GET", "/v1/models")[2])["data"][0]
        assert not info["recording"] and "notice" not in info


def test_the_trainers_read_both_files_as_they_are(recorder, tmp_path):
    asked = [{"role": "system", "content": "Να είσαι σύντομος"}, *Q]
    for name, rating in (("a", "down"), ("b", "up")):
        recorder.remember(name, asked, f"απάντηση {name}")
        recorder.rate(name, rating, ["a"])
    bad, good = read_conversations(tmp_path / "talks.jsonl").items
    assert [message["content"] for message in good.messages] == ["Να είσαι σύντομος", "Γεια", "απάντηση b"]
    assert good.learn[-1] and not any(bad.learn)
    (pair,) = read_pairs(tmp_path / "talks-pairs.jsonl").items
    assert (pair.chosen, pair.rejected, pair.kind) == ("απάντηση b", "απάντηση a", "rated")
