"""The funnel and the sources that feed it: `python -m pytest tests/test_cleaning.py`."""

import gzip
import itertools
import json
import os
from functools import partial

import pytest

from data.html_folder import clean as html_folder
from data.text_folder import clean as text_folder
from oracle import cleaning, cli
from oracle.cli import UsageError
from oracle.datacard import EXAMPLES, Tally
from oracle.rules import Rule, drop_headlines, drop_if, drop_lines, standard_rules

ABOUT = {"name": "Δοκιμή", "source": "here", "licence": "none", "language": "el"}
PROSE = (
    "Στα δικαστήρια οδηγούνται σήμερα οι {n} εργάτες του εργοστασίου που είχαν συλληφθεί την Τρίτη έξω από "
    "την πύλη. Το σωματείο καλεί σε συγκέντρωση στις 9 το πρωί για να απαιτήσει την αθώωσή τους."
)


def document(number, text=None, **fields):
    return {
        "id": str(number),
        "date": f"20{number % 17 + 8:02}-01-02",
        "text": text or PROSE.format(n=number),
        **fields,
    }


def as_is(item):
    return [dict(item)]


@pytest.fixture
def dedup(monkeypatch):
    """Stands in for `oracle.dedup`: the second of two equal texts is the duplicate."""

    def find_duplicates(documents, workers):
        first: dict[str, str] = {}
        pairs = [(identity, first.setdefault(text, identity)) for identity, text in documents]
        return {identity: kept for identity, kept in pairs if kept != identity}

    monkeypatch.setattr(cleaning, "find_duplicates", find_duplicates)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clean(tmp_path, items, rules=None, **options):
    rules = standard_rules("el") if rules is None else rules
    out = tmp_path / "corpus.jsonl"
    options = {"workers": 1, **options}
    card = cleaning.clean(items, options.pop("read", as_is), out, rules, about=ABOUT, **options)
    return lines(out), card


def rule(card, name):
    return next(entry for entry in card["rules"] if entry["name"] == name)


def test_documents_pass_in_order_with_all_fields(tmp_path, dedup):
    items = [document(n, title="Τίτλος", author="Ν. Π.") for n in range(5)]
    corpus, card = clean(tmp_path, items)
    assert [entry["id"] for entry in corpus] == list("01234")
    assert list(corpus[0]) == ["id", "date", "section", "title", "kicker", "text", "address", "author"]
    assert corpus[0]["section"] is None and corpus[0]["text"] == PROSE.format(n=0)
    assert card["read"] == {
        "items": 5,
        "empty": 0,
        "documents": 5,
        "characters": sum(len(i["text"]) for i in items),
    }


def test_every_drop_is_counted_and_kept_in_rejects(tmp_path, dedup):
    items = [document(0), document(1, "Πολύ μικρό."), document(0), document(2, PROSE.format(n=0))]
    corpus, card = clean(tmp_path, items)
    assert [entry["id"] for entry in corpus] == ["0"]
    rejects = {(entry["rule"], entry["id"], entry.get("kept")) for entry in lines(tmp_path / "rejects.jsonl")}
    assert rejects == {("short", "1", None), ("same_id", "0", None), ("duplicate", "2", "0")}
    for name in ("short", "same_id", "duplicate"):
        assert rule(card, name)["documents_dropped"] == 1
    dropped = sum(entry["characters_dropped"] for entry in card["rules"])
    assert dropped + card["kept"]["characters"] == card["read"]["characters"]


def test_changes_are_counted_with_examples_of_before_and_after(tmp_path, dedup):
    items = [document(n, PROSE.format(n=n) + " Στην Eυρώπη…") for n in range(25)]
    corpus, card = clean(tmp_path, items)
    assert corpus[0]["text"].endswith("Στην Ευρώπη...")
    alphabets = rule(card, "alphabets")
    assert (alphabets["documents_changed"], alphabets["characters_changed"]) == (25, 25)
    assert len(alphabets["examples"]) == EXAMPLES
    assert all("Eυρώπη" in example["before"] and "Ευρώπη" in example["after"] for example in alphabets["examples"])
    markdown = (tmp_path / "datacard.md").read_text(encoding="utf-8")
    assert "| alphabets | 0 (0.00 %) | 0 (0.00 %) | 25 (100.00 %) | 25 |" in markdown


def test_the_card_describes_the_corpus(tmp_path, dedup):
    items = [document(n, section="ΔΙΕΘΝΗ" if n % 2 else None) for n in range(4)]
    _, card = clean(tmp_path, items)
    kept = card["kept"]
    assert (kept["documents"], kept["first_date"], kept["last_date"]) == (4, "2008-01-02", "2011-01-02")
    assert kept["languages"] == {"el": 4} and kept["sections"] == {"none": 2, "ΔΙΕΘΝΗ": 2}
    assert kept["years"] == {"2008": 1, "2009": 1, "2010": 1, "2011": 1}
    assert card["bytes"] == (tmp_path / "corpus.jsonl").stat().st_size
    assert json.loads((tmp_path / "datacard.json").read_text(encoding="utf-8")) == card
    markdown = (tmp_path / "datacard.md").read_text(encoding="utf-8")
    assert card["sha256"] in markdown and "licence: none" in markdown


def test_the_corpus_is_the_same_for_any_number_of_workers(tmp_path, dedup):
    items = [document(n, None if n % 7 else "μικρό") for n in range(300)]
    one, alone = clean(tmp_path / "1", items)
    many, together = clean(tmp_path / "3", items, workers=3)
    assert one == many
    assert alone | {"written": ""} == together | {"written": ""}
    assert (tmp_path / "1" / "rejects.jsonl").read_bytes() == (tmp_path / "3" / "rejects.jsonl").read_bytes()


def test_items_are_drawn_no_faster_than_they_are_cleaned(tmp_path, dedup, monkeypatch):
    monkeypatch.setattr(cleaning, "_BATCH", 2)
    drawn = 0

    def items():
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield document(number)

    parts = cleaning._process_all(items(), as_is, standard_rules("el"), workers=2)
    next(parts)
    assert drawn <= 2 * 5  # two batches for each worker wait, and one is handed out
    list(parts)


def test_a_run_that_fails_leaves_the_old_corpus_and_nothing_else(tmp_path, dedup):
    clean(tmp_path, [document(1)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken():
        yield document(2)
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        clean(tmp_path, broken())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_item_may_hold_no_document_or_several(tmp_path, dedup):
    corpus, card = clean(tmp_path, [0, 1, 2], read=several)
    assert [entry["id"] for entry in corpus] == ["10", "20", "21"]
    assert (card["read"]["items"], card["read"]["empty"]) == (3, 1)


def several(item):
    return [document(10 * item + n) for n in range(item)]


def test_extra_rules_and_dropped_headlines(tmp_path, dedup):
    body = PROSE.format(n=1) + "\nΚορυφή σελίδας και άλλα"
    rules = standard_rules("el", [drop_lines("furniture", "", ["Κορυφή σελίδας"])])
    rules = [drop_if("first", "", partial(str.startswith, "x")), *rules, drop_headlines()]
    corpus, card = clean(tmp_path, [document(1, body, title="Τίτλος", kicker="ΥΠΕΡΤΙΤΛΟΣ")], rules)
    assert corpus[0]["text"] == PROSE.format(n=1)
    assert corpus[0]["title"] is None and corpus[0]["kicker"] is None
    assert rule(card, "headlines")["characters_changed"] == len("ΤίτλοςΥΠΕΡΤΙΤΛΟΣ")


def test_titles_are_repaired_too_but_lines_are_dropped_from_bodies_only(tmp_path, dedup):
    corpus, _ = clean(tmp_path, [document(1, title="Β«Eυρώπη»", kicker="2008 - 2012, 34 22 8")])
    assert (corpus[0]["title"], corpus[0]["kicker"]) == ("«Ευρώπη»", "2008 - 2012, 34 22 8")


def test_another_language_needs_only_its_line(tmp_path, dedup):
    polish = (
        "Robotnicy fabryki stają dziś przed sądem, a związek zawodowy wzywa do zgromadzenia się o dziewiątej "
        "przed bramą, żeby zażądać ich uniewinnienia. Nie jest to pierwszy taki proces w mieście od roku."
    )
    corpus, card = clean(tmp_path, [document(1, polish), document(2)], standard_rules("pl"))
    assert [entry["id"] for entry in corpus] == ["1"]
    assert rule(card, "foreign")["documents_dropped"] == 1
    with pytest.raises(ValueError, match="'xx' is not known"):
        standard_rules("xx")


def test_tallies_add_up_in_any_order():
    one, other = Tally(), Tally()
    for number in range(30):
        (one if number % 3 else other).add_drop(str(number), "α" * number)
    forward, backward = Tally(), Tally()
    for tally in (one, other):
        forward.merge(tally)
    for tally in (other, one):
        backward.merge(tally)
    assert forward.as_json() == backward.as_json()
    assert (forward.documents_dropped, forward.characters_dropped) == (30, sum(range(30)))


def test_a_rule_must_be_picklable_to_reach_the_workers(tmp_path, dedup):
    rules = [Rule("shout", "", change=str.upper, fields=("title",))]
    corpus, _ = clean(tmp_path, [document(n, title="αβγ") for n in range(3)], rules, workers=2)
    assert {entry["title"] for entry in corpus} == {"ΑΒΓ"}


def test_a_folder_of_pages(tmp_path, dedup, capsys):
    folder = tmp_path / "saved"
    (folder / "sport").mkdir(parents=True)
    page = "<html><body><td><a href=x>ΜΕΝΟΥ</a></td><td><h1>Τίτλος</h1><p>{}<p>Δεύτερη.</td></body></html>"
    (folder / "sport" / "2020-08-19-agonas.htm").write_bytes(page.format(PROSE.format(n=3)).encode("cp1253"))
    (folder / "empty.html").write_text("<html></html>", encoding="utf-8")
    out = tmp_path / "corpus.jsonl"
    html_folder.main(["--pages", str(folder), "--out", str(out), "--workers", "1", "--licence", "CC0"])
    (article,) = lines(out)
    assert article == {
        "id": "sport/2020-08-19-agonas.htm",
        "date": "2020-08-19",
        "section": "sport",
        "title": "Τίτλος",
        "kicker": None,
        "text": PROSE.format(n=3) + "\nΔεύτερη.",
        "address": None,
    }
    assert "read 1 documents" in capsys.readouterr().out
    assert "licence: CC0" in (tmp_path / "datacard.md").read_text(encoding="utf-8")


def test_a_folder_of_texts_and_books(tmp_path, dedup):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "άρθρο.txt").write_bytes(PROSE.format(n=1).encode("cp1253"))
    words = ["".join(syllables) for syllables in itertools.product(("κα", "λο", "μή", "νι"), repeat=4)]
    chapter = "\n".join(f"Και {' '.join(words[n : n + 6])} να το." for n in range(0, 240, 4))
    (folder / "βιβλίο.txt.gz").write_bytes(gzip.compress(chapter.encode()))
    out = tmp_path / "corpus.jsonl"
    text_folder.main(["--texts", str(folder), "--out", str(out), "--words", "100", "--workers", "1"])
    documents = lines(out)
    assert documents[0]["id"] == "άρθρο.txt#0" and documents[0]["title"] == "άρθρο"
    assert "\n".join(entry["text"] for entry in documents[1:]) == chapter
    assert {len(entry["text"].split()) for entry in documents[1:-1]} == {108}


def test_wrapped_lines_are_joined_and_verse_is_not():
    wrapped = (
        "Το καράβι έφυγε πριν χαράξει, με τον άνεμο στα\nπανιά και τους ναύτες στην πλώρη, για το νη-\n"
        "σί που κανείς δεν είχε δει ακόμα.\n\nΤο ΕΑΜ-\nΕΛΑΣ ήταν μια οργάνωση με χιλιάδες μέλη τότε."
    )
    assert text_folder.unwrap(wrapped) == (
        "Το καράβι έφυγε πριν χαράξει, με τον άνεμο στα πανιά και τους ναύτες στην πλώρη, για το νησί που "
        "κανείς δεν είχε δει ακόμα.\nΤο ΕΑΜ-ΕΛΑΣ ήταν μια οργάνωση με χιλιάδες μέλη τότε."
    )
    verse = "Σε γνωρίζω από την κόψη\nτου σπαθιού την τρομερή\n\nσε γνωρίζω από την όψη\nπου με βία μετράει τη γη"
    assert text_folder.unwrap(verse) == verse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers=0 is not possible"),
        (["--language", "xx"], "'xx' is not known"),
        (["--words", "-1"], "--words=-1 is not possible"),
        (["--texts", os.devnull], "holds no .txt"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "α.txt").write_text("α", encoding="utf-8")
    given = ["--texts", str(tmp_path), "--out", str(tmp_path / "corpus.jsonl"), *arguments]
    monkeypatch.setattr("sys.argv", ["clean.py", *given])
    assert cli.run(text_folder.main) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_text_is_never_the_place_of_the_corpus(tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("Κείμενο.", encoding="utf-8")
    with pytest.raises(UsageError, match=r"a corpus is a \.jsonl file"):
        text_folder.main([f"--texts={tmp_path}", f"--out={text}"])
    assert text.read_text(encoding="utf-8") == "Κείμενο."
