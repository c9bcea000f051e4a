"""The quiz: whole words and whole numbers, questions and paraphrases apart, bad files named by line."""

import json

import pytest

from oracle.cli import UserError
from oracle.quiz import Question, contains, mark, quiz, read_questions, wordings
from tests.runs import ROOT

DEMO = ROOT / "data" / "demo" / "questions.jsonl"


@pytest.mark.parametrize(
    ("answer", "fact", "right"),
    [
        ("Έγραψε 118 χιλιοστά.", "118 χιλιοστά", True),
        ("Έγραψε 118\n  χιλιοστά", "118 χιλιοστά", True),
        ("ΤΟ ΚΑΪΚΙ «ΤΑΞΙΆΡΧΗΣ»", "«Ταξιάρχης»", True),  # capitals, quotes and the final sigma
        ("ο Ταξιάρχης", "«Ταξιάρχης»", True),
        ("το λά", "το λα", False),  # accents are kept
        ("το λαμπρό", "το λα", False),
        ("κάτω λα", "το λα", False),
        ("ήταν 2.140", "140", False),
        ("ήταν 71,5", "71", False),
        ("ήταν 71.", "71", True),
        ("ήταν 71, όχι 72", "71", True),
        ("στις 17:05", "7:05", False),
        ("στις 7:05:30", "7:05", False),
        ("e\u0301tienne", "étienne", True),  # canonical equivalence
        ("", "71", False),
        ("Α+Β (γ)", "α+β (γ)", True),  # no pattern is read into a fact
    ],
)
def test_a_fact_is_whole_words_and_whole_numbers(answer, fact, right):
    assert contains(answer, fact) is right


def test_questions_and_paraphrases_are_counted_apart():
    questions = [Question("a", "Πόσο;", "τρία", ("Πόσα;", "Μα πόσα;")), Question("b", "Ποιος;", "ο Ζήσης")]
    known = {"Πόσο;": "Τρία.", "Πόσα;": "Δύο.", "Μα πόσα;": "Τρία", "Ποιος;": "δεν ξέρω"}
    result = quiz(questions, known.__getitem__)
    assert (result.on_questions, result.on_paraphrases, result.accuracy) == (0.5, 0.5, 0.5)
    assert [(a.id, a.paraphrase, a.right) for a in result.transcript] == [
        ("a", 0, True), ("a", 1, False), ("a", 2, True), ("b", 0, False),
    ]  # fmt: skip
    short = quiz(questions, known.__getitem__, paraphrases=False)
    assert (short.accuracy, short.on_paraphrases) == (0.5, None) and len(short.transcript) == 2


def test_answers_given_all_at_once_are_marked_the_same():
    questions = [Question("a", "Πόσο;", "τρία", ("Πόσα;",)), Question("b", "Ποιος;", "ο Ζήσης")]
    assert wordings(questions) == ["Πόσο;", "Πόσα;", "Ποιος;"]
    answers = ["τρία", "τέσσερα", "ο Ζήσης"]
    assert mark(questions, answers) == quiz(questions, dict(zip(wordings(questions), answers, strict=True)).__getitem__)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        mark(questions, answers[:2])


def test_the_demo_answers_its_own_questions():
    questions = read_questions(DEMO)
    answers = {text: q.answer for q in questions for text in wordings([q])}
    assert len(questions) == 84 and quiz(questions, answers.__getitem__).accuracy == 1
    assert quiz(questions, lambda _: "Δεν ξέρω.").accuracy == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: not JSON"),
        (["", "[]"], 'line 2: no "question"'),
        ([json.dumps({"question": "Ποιος;"})], 'line 1: no "fact"'),
        ([json.dumps({"question": "Ποιος;", "fact": "«»"})], 'line 1: no "fact"'),
        ([json.dumps({"question": "Ποιος;", "fact": "α", "paraphrases": "Τι;"})], 'line 1: "paraphrases"'),
        ([""], "no question in it"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, lines, message):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_questions(path)


def test_a_missing_file_and_another_encoding(tmp_path):
    with pytest.raises(UserError, match="no such question file"):
        read_questions(tmp_path / "none.jsonl")
    path = tmp_path / "greek.jsonl"
    path.write_bytes('{"question": "Ποιος;"}'.encode("cp1253"))
    with pytest.raises(UserError, match="invalid UTF-8"):
        read_questions(path)
