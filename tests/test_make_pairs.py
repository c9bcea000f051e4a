"""Questions and answers from a corpus: with a teacher that misbehaves, and without any. Run: pytest tests/test_make_pairs.py"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.qa import extractive
from data.qa.filters import Filter, copied, invented_numbers, overlap
from data.qa.journal import Journal
from data.qa.make_pairs import Maker, Style, main, read_styles, tasks_of
from data.qa.teacher import FailedError, Teacher, parse
from oracle.cli import UsageError, UserError
from oracle.conversations import read_conversations
from oracle.corpus import CorpusReader, Document
from oracle.fetch import Stop

DEMO = Path(__file__).parents[1] / "data/demo/articles.jsonl"
TEXT = (
    "Το βροχόμετρο του Λυκείου έγραψε 118 χιλιοστά από το μεσημέρι της Κυριακής ως το απόγευμα της Δευτέρας. «Δεν ρισκάρω άνθρωπο για να"
    " γλιτώσουμε δρόμο», είπε στη «Φωνή» ο αντιδήμαρχος Τεχνικών Έργων Μανώλης Ραυτογιάννης. Την Τρίτη το πρωί κατέβηκε συνεργείο της"
    " Περιφέρειας με βάρκα και κοντάρι.\n\nΗ γέφυρα έκλεισε για όλους, αυτοκίνητα, δίκυκλα και πεζούς, ακόμη και για τα πρόβατα του Λάμπρου."
)
ARTICLE = Document("a1", TEXT, "2018-03-02", "Ένας πλάτανος έκλεισε τη γέφυρα", "Τοπικά")
QUESTION = "Πόσα χιλιοστά έγραψε το βροχόμετρο του Λυκείου {};"
ANSWER = "Το βροχόμετρο του Λυκείου έγραψε 118 χιλιοστά."


def completion(text: str) -> bytes:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


def good(n: int) -> bytes:
    return completion(json.dumps([{"question": QUESTION.format(f"{n}η φορά"), "answer": ANSWER}], ensure_ascii=False))


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request as the server's script says: bytes for a body, a number for a status, or a word."""

    server: "Server"

    def do_POST(self) -> None:
        server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(asked)
            server.keys.append(self.headers.get("Authorization"))
            n = len(server.asked)
        said = server.script(n)
        if said == "hang":
            server.over.wait(5)
        elif said == "cut":
            self._send(200, good(n), cut=True)
        elif isinstance(said, tuple):
            self._send(said[0], b"{}", {"Retry-After": said[1]})
        elif isinstance(said, int):
            self._send(said, b"oh no")
        elif said != "drop":
            self._send(200, said)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A loopback teacher; `asked` and `keys` are what it was sent."""

    def __init__(self, script: Callable[[int], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.url = script, f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.lock, self.over = threading.Lock(), threading.Event()


@contextmanager
def serving(script: Callable[[int], Any]) -> Iterator[Server]:
    server = Server(script)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class Patient(Teacher):
    """A teacher whose pauses are noted and cost no time."""

    def __init__(self, url: str, key: str = "") -> None:
        self.pauses: list[float] = []
        super().__init__(url, "m", key, timeout=0.3, sleep=self.pauses.append)


MESSAGES = [{"role": "user", "content": "…"}]


@pytest.mark.parametrize("fault", [500, 503, "drop", "cut", "hang", b"<html>", b"{}", b'{"choices": []}'])
def test_a_fault_that_passes_is_waited_out(fault):
    with serving(lambda n: fault if n < 3 else good(n)) as server:
        teacher = Patient(server.url)
        assert teacher.pairs(MESSAGES) == [(QUESTION.format("3η φορά"), ANSWER)]
        assert len(server.asked) == 3 and 1 <= teacher.pauses[0] <= 1.5 and 2 <= teacher.pauses[1] <= 3
        assert (teacher.tokens_in, teacher.tokens_out) == (100, 10)


@pytest.mark.parametrize("fault", [500, "drop", "hang", b"no json"])
def test_a_fault_that_stays_fails_the_article_after_four_tries(fault):
    with serving(lambda n: fault) as server, pytest.raises(FailedError) as caught:
        Patient(server.url).pairs(MESSAGES)
    assert caught.value.server and len(server.asked) == 4


def test_rubbish_is_asked_for_twice_again_and_paid_for():
    with serving(lambda n: completion("Δεν ξέρω τι είναι JSON.")) as server:
        teacher = Patient(server.url)
        with pytest.raises(FailedError, match="no JSON list") as caught:
            teacher.pairs(MESSAGES)
        assert not caught.value.server and len(server.asked) == 3 and teacher.tokens_in == 300


def test_retry_after_is_kept_by_all_threads_and_not_for_ever():
    with serving(lambda n: (429, "7") if n < 3 else good(n)) as server:
        teacher = Patient(server.url)
        assert teacher.pairs(MESSAGES) and teacher.pauses.count(7.0) == 2
        assert max(pause for pause in teacher.pauses if pause != 7.0) > 6  # the next request waits until then
    with serving(lambda n: (429, "86400")) as server, pytest.raises(UserError, match="rest of 86400 s"):
        Patient(server.url).pairs(MESSAGES)
    with serving(lambda n: 429) as server, pytest.raises(FailedError, match="overloaded"):
        Patient(server.url).pairs(MESSAGES)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_can_mend_stops_at_once(status: int):
    with serving(lambda n: status) as server, pytest.raises(UserError, match=f"answer {status}"):
        Patient(server.url, key="secret").pairs(MESSAGES)
    assert len(server.asked) == 1 and server.keys == ["Bearer secret"]


def test_a_request_that_the_server_refuses_fails_this_article_only():
    with serving(lambda n: 400) as server, pytest.raises(FailedError) as caught:
        Patient(server.url).pairs(MESSAGES)
    assert not caught.value.server and len(server.asked) == 1


PAIR = '{"question": "Τι;", "answer": "Αυτό."}'


@pytest.mark.parametrize(
    "text",
    [
        f"[{PAIR}]", f"```json\n[{PAIR}]\n```", f"Ορίστε:\n[{PAIR},]\nΚαλή συνέχεια!", f'{{"pairs": [{PAIR}]}}', PAIR,
        f"<think>[1, 2]</think>[{PAIR}]", '[{"q": "Τι;", "a": "Αυτό."}]', '[{"ερώτηση": "Τι;", "απάντηση": " Αυτό.\n"}, "x", {"question": 1, "answer": 2}]',
    ],
)  # fmt: skip
def test_json_is_found_in_what_models_put_around_it(text: str):
    assert parse(text) == [("Τι;", "Αυτό.")]


@given(st.text(alphabet='[]{}":,`question answer json\n', max_size=80))
def test_no_answer_breaks_the_parser(text: str):
    assert isinstance(parse(text), list)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Τι έγινε;", ANSWER, "too short"),
        ("Τι έγινε στη γέφυρα;", "Έκλεισε.", "too short"),
        ("Τι έγινε στη γέφυρα;", "η γέφυρα " * 300, "too long"),
        ("What happened to the bridge?", "The bridge was closed to everyone today.", "another alphabet"),
        ("Τι έγινε στη γέφυρα;", "Λυπάμαι, αλλά δεν μπορώ να απαντήσω για τη γέφυρα.", "an excuse"),
        ("Τι έγινε στη γέφυρα;", "Σύμφωνα με το άρθρο, η γέφυρα έκλεισε.", "speaks of the article"),
        ("Τι έγινε στη γέφυρα;", "Ο υπουργός ανακοίνωσε εκλογές τον Σεπτέμβριο.", "not in the article"),
        (
            "Πόσα χιλιοστά έγραψε;",
            "Το βροχόμετρο του Λυκείου έγραψε 200 χιλιοστά.",
            "a number that is not in the article",
        ),
    ],
)
def test_pairs_that_teach_nothing_good_are_refused(question: str, answer: str, reason: str):
    chosen = Filter("el")
    assert not chosen.admits(question, answer, TEXT, "a1") and dict(chosen.refused) == {reason: 1}


def test_questions_are_asked_once():
    chosen = Filter("el")
    question = "Πόσα χιλιοστά βροχής έγραψε το βροχόμετρο του Λυκείου στην πλημμύρα"
    assert chosen.admits(f"{question};", ANSWER, TEXT, "a1")
    assert not chosen.admits(f"{question.upper()}!", ANSWER, TEXT, "a2")
    assert not chosen.admits(f"{question} τότε;", ANSWER, TEXT, "a1")
    assert chosen.admits(f"{question} τότε;", ANSWER, TEXT, "a2")
    assert dict(chosen.refused) == {"asked before": 1, "nearly asked before": 1}


def test_measures_of_grounding():
    assert overlap("Οι γέφυρες έκλεισαν", "Η γέφυρα έκλεισε") == 1 and overlap("Ο υπουργός παραιτήθηκε", TEXT) == 0
    assert copied("ένα δύο τρία τέσσερα πέντε", "Ένα δύο τρία τέσσερα έξι") == 0.5
    assert invented_numbers("στις 12:30, 5 ώρες", "5;", "στις 12:30") == set()
    assert invented_numbers("118", "", "1.118") == {"118"}


# The whole command, against a server.


def corpus_of(folder: Path, n: int) -> Path:
    path = folder / "corpus.jsonl"
    rows = [{"id": f"a{i}", "title": f"Τίτλος {i}", "text": TEXT, "date": "2018-03-02"} for i in range(n)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make(corpus: Path, out: Path, server: Server, *more: str) -> list[dict]:
    main(
        [
            f"--corpus={corpus}",
            f"--out={out}",
            "--language=el",
            f"--base_url={server.url}",
            "--model=m",
            "--workers=3",
            *more,
        ]
    )
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_pairs_are_conversations_and_a_second_run_asks_nothing(tmp_path: Path, capsys):
    corpus, out = corpus_of(tmp_path, 7), tmp_path / "pairs.jsonl"
    with serving(good) as server:
        rows = make(corpus, out, server, "--price_in=10", "--price_out=100")
        assert len(rows) == 7 == len(server.asked) and {row["article"] for row in rows} == {f"a{i}" for i in range(7)}
        assert "Μανώλης Ραυτογιάννης" in server.asked[0]["messages"][-1]["content"]
        assert rows == make(corpus, out, server) and len(server.asked) == 7
    said = capsys.readouterr().out
    assert "7 articles, 7 pairs" in said and "700 + 70 tokens, 0.01 spent" in said
    read = read_conversations(out)
    assert read.shape == "OpenAI messages" and len(read.items) == 7 and read.items[0].article.startswith("a")
    assert all(row["source"] == "model:m" and row["prompt"] for row in rows)


def test_a_server_that_dies_leaves_what_was_made_and_the_next_run_makes_the_rest(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("data.qa.teacher.TRIES", 1)
    corpus, out = corpus_of(tmp_path, 12), tmp_path / "pairs.jsonl"
    with serving(lambda n: good(n) if n <= 5 else "drop") as server:
        with pytest.raises(UserError, match="failed 3 articles in a row") as caught:
            make(corpus, out, server)
        made = len(out.read_text().splitlines())
        assert made == 5 and "run the same command again" in str(caught.value)
        server.script = lambda n: good(n + 100)
        rows = make(corpus, out, server)
    assert len(rows) == 12 == len({row["article"] for row in rows})


def test_rubbish_articles_are_counted_and_asked_again_next_time(tmp_path: Path, capsys):
    corpus, out = corpus_of(tmp_path, 4), tmp_path / "pairs.jsonl"
    with serving(lambda n: completion("όχι")) as server:
        assert make(corpus, out, server) == [] and len(server.asked) == 12
        assert "4 failed now" in capsys.readouterr().out
        server.script = good
        assert len(make(corpus, out, server)) == 4


def test_nobody_there_is_one_sentence(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("data.qa.teacher.TRIES", 1)
    with serving(good) as server:
        pass
    with pytest.raises(UserError, match="nobody answers there"):
        make(corpus_of(tmp_path, 9), tmp_path / "pairs.jsonl", server)


def test_a_stop_finishes_what_is_underway(tmp_path: Path):
    stop = Stop()
    styles = [Style("facts", "", "{article}")]
    with serving(good) as server, Journal(tmp_path / "out.jsonl") as journal:
        maker = Maker(Patient(server.url), journal, Filter("el"), 4, 2, (0.0, 0.0))
        tasks = list(tasks_of(CorpusReader(corpus_of(tmp_path, 30), keep_titles=False), styles, 1, 0))

        def until_ten() -> Iterator:
            for number, task in enumerate(tasks):
                stop.asked = number >= 9
                yield task

        maker.run(until_ten(), stop)
        assert 6 <= maker.articles <= 10 and maker.articles == len(journal.done) == len(list(journal.rows()))


# The journal.


def test_rows_without_their_note_are_cut_off_and_a_torn_note_does_not_count(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    with Journal(path) as journal:
        journal.add("a", [{"n": 1}, {"n": 2}])
        journal.add("b", [])
        journal.add("c", [{"n": 3}])
    notes = tmp_path / "out.jsonl.done"
    whole = notes.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1]) + 1):
        notes.write_bytes(whole[:-cut])
        path.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n": 4')
        with Journal(path) as journal:
            assert journal.done == {"a", "b"} and [row["n"] for row in journal.rows()] == [1, 2]
            journal.add("d", [{"n": 9}])
        with Journal(path) as journal:
            assert journal.done == {"a", "b", "d"} and [row["n"] for row in journal.rows()] == [1, 2, 9]


def test_files_that_are_not_a_journal_stay_as_they_are(tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UserError, match="not begun by this command"), Journal(path):
        pass
    assert path.read_text() == "mine\n"
    (tmp_path / "out.jsonl.done").write_text('{"task": "a", "end": 99}\n')
    with pytest.raises(UserError, match="shorter than its notes"), Journal(path):
        pass
    assert path.read_text() == "mine\n"


# Prompts and settings.


@pytest.mark.parametrize("code", ["el", "en", "pl", "sr"])
def test_the_prompts_at_hand_are_whole(code: str):
    styles = read_styles(Path(f"data/qa/prompts_{code}.txt"))
    said = styles[0].messages(ARTICLE, 4)
    assert len(styles) >= 3 and len({style.hash for style in styles}) == len(styles)
    assert said[0]["role"] == "system" and TEXT in said[1]["content"] and ARTICLE.title in said[1]["content"]
    assert '[{"question"' in said[1]["content"] and "{title}" not in said[1]["content"]


def test_braces_in_an_article_mean_nothing():
    said = Style("s", "", "{n} {article} {title}").messages(Document("a", "{title} {n}", title="{article}"), 2)
    assert said == [{"role": "user", "content": "2 {title} {n} {article}"}]


def test_a_prompt_file_that_asks_nothing_is_refused(tmp_path: Path):
    (tmp_path / "p.txt").write_text("=== facts\nΓράψε ερωτήσεις.\n")
    with pytest.raises(UserError, match="article"):
        read_styles(tmp_path / "p.txt")
    with pytest.raises(UserError, match="no such prompt file"):
        read_styles(tmp_path / "q.txt")


@pytest.mark.parametrize(
    "bad",
    [
        [],
        ["--base_url=x"],
        ["--base_url=x", "--model=m", "--workers=0"],
        ["--base_url=x", "--model=m", "--key_env=NO_SUCH_KEY_SET"],
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, bad: list[str]):
    with pytest.raises(UsageError):
        main([f"--corpus={corpus_of(tmp_path, 1)}", f"--out={tmp_path / 'o.jsonl'}", "--language=el", *bad])
    with pytest.raises(UsageError, match="another one than the corpus"):
        main(
            [
                f"--corpus={tmp_path / 'corpus.jsonl'}",
                f"--out={tmp_path / 'corpus.jsonl'}",
                "--language=el",
                "--extractive",
            ]
        )


# Without a model.

WORDING = extractive.read_wording("el")


def found_in(document: Document) -> dict[str, list[dict]]:
    by_kind: dict[str, list[dict]] = {}
    for row in extractive.pairs_of(document, "el", WORDING, 1, 100):
        by_kind.setdefault(row["kind"], []).append(row)
    return by_kind


def said(row: dict) -> tuple[str, str]:
    return row["messages"][0]["content"], row["messages"][1]["content"]


def test_every_kind_of_question_is_cut_out_of_a_fit_article():
    found = found_in(ARTICLE)
    assert {"lead", "title", "more", "date", "who_said", "said_what", "number", "when", "continue"} <= set(found)
    assert (
        said(found["date"][0])[1]
        == "Το «Ένας πλάτανος έκλεισε τη γέφυρα» δημοσιεύτηκε στις 2 Μαρτίου 2018, στη στήλη «Τοπικά»."
    )
    question, answer = said(found["who_said"][0])
    assert (
        "«Δεν ρισκάρω άνθρωπο για να γλιτώσουμε δρόμο»" in question
        and "Ραυτογιάννης" in answer
        and "Ραυτογιάννης" not in question
    )
    assert "ο αντιδήμαρχος Τεχνικών Έργων Μανώλης Ραυτογιάννης" in said(found["said_what"][0])[0]
    question, answer = said(found["number"][0])
    assert "πόσα χιλιοστά" in question.lower() and "118 χιλιοστά" in answer and "118" not in question
    assert "την Τρίτη το πρωί" in said(found["when"][0])[0]


def test_answers_are_the_articles_own_words():
    for document in CorpusReader(DEMO, keep_titles=False):
        rows = extractive.pairs_of(document, "el", WORDING, 1, 100)
        own = " ".join(f"{document.title} {document.text}".split())
        assert all(" ".join(said(row)[1].split()) in own for row in rows if row["kind"] != "date")
        assert all(
            "{" not in said(row)[0] and row["source"] == "extractive" and row["article"] == document.id for row in rows
        )


def test_an_ambiguous_number_is_not_asked_for():
    twice = Document("a", "Έπεσαν 118 χιλιοστά βροχής σήμερα. Έπεσαν 40 χιλιοστά βροχής χθες.", "", "Βροχή")
    assert "number" not in found_in(twice)
    assert "number" not in found_in(Document("a", "Ήρθαν 23 πυροσβέστες από την πόλη.", "", "Φωτιά"))  # πόσοι or πόσες?
    assert "number" not in found_in(Document("a", "Έχουμε 12 σημαντικά παιχνίδια αύριο το πρωί.", "", "Αγώνες"))


def test_the_first_of_a_month_is_named_as_people_do():
    first = found_in(Document("a", TEXT, "1978-05-01", "Η γέφυρα"))
    assert said(first["date"][0])[1] == "Το «Η γέφυρα» δημοσιεύτηκε την 1η Μαΐου 1978."


def test_a_question_for_a_title_is_the_question():
    found = found_in(Document("a", "Η γέφυρα έκλεισε για όλους σήμερα.", "", "Πότε ανοίγει η γέφυρα;"))
    assert said(found["question_title"][0])[0] == "Πότε ανοίγει η γέφυρα;"


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=80), st.floats(0.3, 1))
def test_no_kind_takes_more_than_its_share(kinds: list[str], share: float):
    rows = [{"kind": kind, "n": n} for n, kind in enumerate(kinds)]
    kept = extractive.capped(rows, share, 1)
    assert [row["n"] for row in kept] == sorted(row["n"] for row in kept) and {row["kind"] for row in kept} == set(
        kinds
    )
    allowed = extractive.allowed_share(share, len(set(kinds))) * len(kept)
    assert all(sum(row["kind"] == kind for row in kept) <= max(1, allowed + 1e-9) for kind in kinds)
    assert extractive.allowed_share(0.2, 13) == 0.2 and extractive.allowed_share(0.2, 4) == 0.5


def test_the_extractive_mode_says_what_it_is_and_is_the_same_again(tmp_path: Path, capsys):
    out, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path in (out, again):
        main([f"--corpus={DEMO}", f"--out={path}", "--language=el", "--extractive", "--limit=10"])
    assert out.read_bytes() == again.read_bytes()
    printed = capsys.readouterr().out
    assert "made without a model" in printed and "100.0% of the answers stand word for word" in printed
    assert len(read_conversations(out).items) == len(out.read_text().splitlines()) > 60
    with pytest.raises(UserError, match="no question could be cut"):
        main([f"--corpus={corpus_of_nothing(tmp_path)}", f"--out={out}", "--language=el", "--extractive"])
    assert out.read_bytes() == again.read_bytes()


def corpus_of_nothing(folder: Path) -> Path:
    (folder / "nothing.jsonl").write_text('{"text": "x"}\n')
    return folder / "nothing.jsonl"


@pytest.mark.parametrize("code", ["en", "pl", "sr"])
def test_other_languages_have_wordings_too(code: str):
    text = {
        "en": "The bridge was closed to everyone on Monday because of the flood. The mayor promised to have it repaired before the summer.",
        "pl": "Most został zamknięty w poniedziałek dla wszystkich z powodu powodzi. Burmistrz obiecał, że naprawi go jeszcze przed latem.",
        "sr": "Мост је у понедељак затворен за све због велике поплаве у граду. Градоначелник је обећао да ће га поправити пре лета.",
    }[code]
    rows = extractive.pairs_of(
        Document("a", text, "2018-03-02", "Титул", "X"), code, extractive.read_wording(code), 1, 10
    )
    assert {"lead", "date"} <= {row["kind"] for row in rows} and len(rows) >= 3
