"""The embedded newspaper and the story `make demo` tells."""

import json
import re
import unicodedata
from datetime import date
from pathlib import Path

from data.demo import chat_data, standin, story
from data.demo.standin import StandIn
from data.rizospastis import clean, scrape
from oracle.text import normalize

DEMO = Path(__file__).parents[1] / "data" / "demo"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


def test_the_newspaper_is_whole():
    articles = rows("articles.jsonl")
    assert len(articles) >= 80 and sum(len(a["text"].encode()) for a in articles) > 100_000
    assert len({a["id"] for a in articles}) == len({a["title"] for a in articles}) == len(articles)
    for a in articles:
        assert a["id"].startswith(a["date"]) and date.fromisoformat(a["date"]).strftime("%A") == "Friday"
        assert a["section"] and a["title"] and normalize(a["text"]) == a["text"]


def test_the_newspaper_is_greek_and_no_two_pieces_begin_alike():
    articles = rows("articles.jsonl")
    text = " ".join(a["text"] for a in articles)
    letters = re.findall(r"[^\W\d_]", text)
    assert sum("\u0370" <= c <= "\u03ff" or "\u1f00" <= c <= "\u1fff" for c in letters) / len(letters) > 0.99
    openings = [tuple(a["text"].split()[:4]) for a in articles]
    assert len(set(openings)) == len(openings)


def test_every_answer_holds_its_fact_and_so_does_the_article():
    articles = {a["id"]: a for a in rows("articles.jsonl")}
    questions = rows("questions.jsonl")
    assert len(questions) >= 80 and len({q["question"] for q in questions}) == len(questions)
    for q in questions:
        assert q["fact"] in q["answer"] and q["fact"] in articles[q["article"]]["text"]
        assert len({q["question"], *q["paraphrases"]}) == 4


def test_the_wordings_to_choose_by_and_to_ask_at_the_end_are_unlike_all_that_are_taught():
    kept = [chat_data.wordings(row) for row in chat_data.questions()]
    taught = {words(text) for ways in kept for text in ways.taught}
    validation, held_out = {words(w.validation) for w in kept}, {words(w.held_out) for w in kept}
    assert len(validation) == len(held_out) == len(kept) == 84 and len(taught) > 1_500
    assert not any(alike(a, b) for a in held_out for b in taught | validation)
    assert not any(alike(a, b) for a in validation for b in taught)


def alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return len(a & b) > 0.8 * len(a | b)


def words(text: str) -> frozenset[str]:
    plain = "".join(c for c in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(c))
    return frozenset(re.findall(r"\w+", plain))


def test_scraping_and_cleaning_keep_every_article(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "corpus.jsonl"
    with StandIn(standin.read_articles(DEMO / "articles.jsonl")) as site:
        given = [word.replace("SITE", site.base_url).replace("data/demo/raw", str(raw)) for word in story.SCRAPE]
        scrape.main(given[2:])
    clean.main([f"--raw={raw}", f"--out={out}", "--workers=1"])
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    articles = rows("articles.jsonl")
    assert [a["id"] for a in written] == [a["id"].replace("-", "") for a in articles]
    for key in ("date", "section", "title", "kicker"):
        assert [a[key] for a in written] == [a[key] or None for a in articles]
    assert [a["text"].split() for a in written] == [a["text"].replace("…", "...").split() for a in articles]
    assert (tmp_path / "rejects.jsonl").read_bytes() == b""
