"""From stored pages of the newspaper to its corpus: `python -m pytest tests/test_rizospastis_clean.py`."""

import json

import pytest

from data.rizospastis import clean, site
from oracle import cleaning, cli
from oracle.rawstore import Answer, Page, RawStore, Request

PROSE = (
    "Στα δικαστήρια οδηγούνται σήμερα οι {n} εργάτες του εργοστασίου που είχαν συλληφθεί την Τρίτη έξω από "
    "την πύλη. Το σωματείο καλεί σε συγκέντρωση στις 9 το πρωί για να απαιτήσει την αθώωσή τους."
)
PAGE = """<html><body><div>Παρασκευή 11 Μάη 2012</div><div>ΡΙΖΟΣΠΑΣΤΗΣ</div><div>Σελίδα {page}</div>
<div>{section}</div><div class="title3">ΕΡΓΑΤΕΣ</div><div class="title1">{title}</div>
<div class="story_body"><div class="image"><img src="a.jpg">Λεζάντα</div><p>{text}</p></div>
<a href="#">Κορυφή σελίδας</a><div>Ο καθημερινός ΡΙΖΟΣΠΑΣΤΗΣ 1 ευρώ</div></body></html>"""


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Three stories in three sections, and a page without one."""
    monkeypatch.setattr(cleaning, "find_duplicates", lambda documents, workers: {})
    folder = tmp_path / "raw"
    with RawStore(folder, write=True) as store:
        for number, section in enumerate(("ΠΟΛΙΤΙΚΗ", "ΔΙΕΘΝΗ", "ΑΘΛΗΤΙΣΜΟΣ", "")):
            url = site.story_url(7000000 + number)
            text = PROSE.format(n=number) if section else ""
            body = PAGE.format(page=number + 1, section=section, title=f"Τίτλος {number}", text=text)
            request = Request(f"story/{7000000 + number:09}", url, "2012-05-11")
            store.add([request])
            address = site.BASE_URL + "/" + url.lstrip("/")
            headers = {"content-type": "text/html"}
            store.store(
                request,
                Page(address, address, 200, headers, body.encode("cp1253"), "2026-01-01", request.key),
            )
            store.settle(request.key, Answer("ok"))
    return folder


def corpus(raw, *arguments):
    out = raw.parent / "corpus.jsonl"
    clean.main(["--raw", str(raw), "--out", str(out), "--workers", "1", *arguments])
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_stories_become_documents(raw):
    documents = corpus(raw)
    assert [entry["section"] for entry in documents] == ["ΠΟΛΙΤΙΚΗ", "ΔΙΕΘΝΗ", "ΑΘΛΗΤΙΣΜΟΣ"]
    first = documents[0]
    assert (first["id"], first["date"], first["page"]) == ("7000000", "2012-05-11", 1)
    assert (first["kicker"], first["title"], first["text"]) == ("ΕΡΓΑΤΕΣ", "Τίτλος 0", PROSE.format(n=0))
    assert first["address"].endswith("story.do?id=7000000")
    card = json.loads((raw.parent / "datacard.json").read_text(encoding="utf-8"))
    assert card["read"]["items"] == 4 and card["read"]["empty"] == 1


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--sections", "πολιτική", "Διεθνή"], ["7000000", "7000001"]),
        (["--drop_sections", "Αθλητισμός"], ["7000000", "7000001"]),
        (["--drop_kinds", "front_page"], ["7000001", "7000002"]),
    ],
)
def test_selection(raw, arguments, kept):
    assert [entry["id"] for entry in corpus(raw, *arguments)] == kept


def test_titles_can_be_left_out(raw):
    assert {(entry["title"], entry["kicker"]) for entry in corpus(raw, "--titles", "drop")} == {(None, None)}


def test_a_section_that_no_story_has_is_said(raw, capsys):
    corpus(raw, "--sections", "Πολιτική", "Μόδα")
    assert "no story of section 'Μόδα'" in capsys.readouterr().err


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["clean.py", *map(str, arguments)])
    return cli.run(clean.main)


def test_wrong_choices_are_one_sentence(raw, capsys, monkeypatch):
    given = ["--raw", raw, "--out", raw / "c.jsonl"]
    assert run(monkeypatch, *given, "--drop_kinds", "poem") == 2
    assert "--drop_kinds=poem is unknown; the kinds are front_page" in capsys.readouterr().err
    assert run(monkeypatch, *given, "--sections", "Α", "--drop_sections", "α") == 2
    assert "in --sections and in --drop_sections" in capsys.readouterr().err
    assert run(monkeypatch, "--raw", raw / "nothing", "--out", "c.jsonl") == 1


def test_a_story_without_a_date_gets_that_of_the_issue(monkeypatch):
    story = site.Story(5, "", "", 3, "", "", "", "", "", "κείμενο", 1)
    monkeypatch.setattr(site, "parse_story", lambda page: story)
    page = Page("x", "x", 200, {}, b"", "2026-01-01")
    assert clean.read_page((page, "2012-05-11"))[0]["date"] == "2012-05-11"
