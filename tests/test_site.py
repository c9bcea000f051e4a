"""The newspaper's addresses, bytes and page anatomy. Run: pytest tests/test_site.py"""

import pytest

from data.demo.standin import Newspaper, read_articles, story_id
from data.rizospastis import site
from data.rizospastis.site import Address, parse_address
from data.rizospastis.walk import Walk
from oracle import quality
from oracle.rawstore import Page
from tests.newspaper import ARTICLES


def as_page(html: str | bytes, url: str = "http://x/story.do?id=7", content_type: str = "text/html") -> Page:
    body = html.encode() if isinstance(html, str) else html
    return Page(url, url, 200, {"content-type": content_type}, body, "2026-01-01T00:00:00Z")


# Addresses.


@pytest.mark.parametrize(
    "href",
    [
        "story.do?id=5192534",
        "/story.do?id=5192534",
        "http://rizospastis.gr/story.do?id=5192534",
        "https://www.rizospastis.gr/wwwengine/story.do?id=5192534",
        "http://www2.rizospastis.gr/wwwengine/storyPlain.do?id=5192534&action=print",
        "/story.do;jsessionid=1A2B.node?id=5192534",
        "//WWW.Rizospastis.GR/story.do?id=5192534#top",
    ],
)
def test_every_spelling_of_a_story_is_one_address(href: str):
    assert parse_address(href) == Address("story", story_id=5192534)


@pytest.mark.parametrize(
    "href",
    [
        "page.do?publDate=24/1/2002&id=2327&pageNo=6",
        "/page.do?id=2327&pageNo=6&publDate=24%2F1%2F02",
        "http://www.rizospastis.gr/page.do?publDate=24/01/2002&pageNo=06&id=2327",
        "/wwwengine/page.do?publDate=24%2f01%2f2002&id=2327&pageNo=6",
    ],
)
def test_every_spelling_of_a_page_is_one_address(href: str):
    assert parse_address(href) == Address("page", date="2002-01-24", edition=2327, number=6)


def test_the_last_century_and_pages_without_number():
    assert parse_address("page.do?publDate=20/2/96") == Address("page", date="1996-02-20", number=1)


@pytest.mark.parametrize(
    "href",
    [None, "", "#top", "story.do", "story.do?id=x", "page.do?publDate=31/2/2018", "index.do", "http://[broken",
     "columnPage.do?publDate=1/2/2012&columnId=1821", "http://example.org/story.do?id=1", "javascript:x()"],
)  # fmt: skip
def test_what_is_no_story_and_no_page(href: str | None):
    assert parse_address(href) is None


# Bytes.


GREEK = "Άρης, Ήρα: «δουλειά» – 1.000 €"


@pytest.mark.parametrize(
    ("body", "content_type", "codec", "text"),
    [
        (GREEK.encode(), "text/html", "utf-8", GREEK),
        (GREEK.encode(), "text/html; charset=iso-8859-7", "utf-8", GREEK),
        (b"\xef\xbb\xbf" + GREEK.encode(), "text/html", "utf-8", GREEK),
        (GREEK.encode("cp1253"), "text/html", "cp1253", GREEK),
        (GREEK.encode("cp1253"), "text/html; charset=windows-1253", "cp1253", GREEK),
        (GREEK.encode("cp1253"), "text/html; charset=ISO-8859-7", "cp1253", GREEK),
        (
            b"<meta charset=iso-8859-7>" + "Άνω".encode("cp1253"),
            "text/html",
            "cp1253",
            "<meta charset=iso-8859-7>Άνω",
        ),
        ("Άνω Άρης".encode("iso8859_7"), "text/html; charset=iso-8859-7", "iso-8859-7", "Άνω Άρης"),
        ((GREEK * 99).encode()[:-1], "text/html", "utf-8", (GREEK * 99)[:-1] + "\ufffd"),
    ],
)
def test_the_codec_follows_the_bytes_and_not_the_label(body: bytes, content_type: str, codec: str, text: str):
    assert site.decode(body, {"content-type": content_type}) == (text, codec)
    assert not quality.is_lost(text)


def test_a_page_in_the_wrong_codec_is_an_error():
    body = b"<html>" + bytes([0x81, 0xD2, 0xFF]) * 50 + b"</html>"
    answer = Walk(0).judge("story/000000000007", as_page(body), ["2018-03-02"])
    assert answer.state == "error" and "cp1253" in answer.note["reason"]


def test_a_page_is_complete_with_its_end_tag_or_the_end_marker():
    assert site.is_complete(b"<html>...</HTML>\n")
    assert site.is_complete("text Κορυφή σελίδας".encode("cp1253"))
    assert not site.is_complete(b"<html><body>text")


# Anatomy.


@pytest.mark.parametrize(
    ("header", "dates", "printing"),
    [
        ("Παρασκευή 2 Μάρτη 2018", ["2018-03-02"], 0),
        ("Σάββατο 26 Μάη 2018 - Κυριακή 27 Μάη 2018", ["2018-05-26", "2018-05-27"], 0),
        ("Σάββατο 30 Ιούνη - Κυριακή 1 Ιούλη 2018", ["2018-06-30", "2018-07-01"], 0),
        ("Σάββατο 31 Δεκέμβρη - Κυριακή 1 Γενάρη 2012", ["2011-12-31", "2012-01-01"], 0),
        ("Σάββατο 14 – Δευτέρα 16 Απρίλη 2012", ["2012-04-14", "2012-04-15", "2012-04-16"], 0),
        ("Σάββατο 20 Δεκέμβρη 2014 - 1η έκδοση", ["2014-12-20"], 1),
        ("Τετάρτη 15 Αυγούστου 2018", ["2018-08-15"], 0),
        ("Πέμπτη 28 Οχτώβρη 2010", ["2010-10-28"], 0),
        ("Πέμπτη 28 Οκτωβρίου 2010", ["2010-10-28"], 0),
        ("Δευτέρα 1 Μαΐου 2000", ["2000-05-01"], 0),
        ("Δε βρέθηκε η σελίδα 12 του 2018", [], 0),
        ("30 Φλεβάρη 2018", [], 0),
    ],
)
def test_header_dates(header: str, dates: list[str], printing: int):
    issue = site.parse_issue_page(as_page(f"<body><b>{header}</b> ΡΙΖΟΣΠΑΣΤΗΣ Σελ. 3 /32 <i>ΠΟΛΙΤΙΚΗ</i></body>"))
    assert (list(issue.dates), issue.printing) == (dates, printing)
    assert (issue.total, issue.section) == (32, "ΠΟΛΙΤΙΚΗ")


def test_a_page_says_which_stories_and_editions_it_leads_to():
    html = """<body>Παρασκευή 2 Μάρτη 2018 ΡΙΖΟΣΠΑΣΤΗΣ <p>Σελ.
    <select><option>1<option>2<option>3</select> /3</p>
    <a>no address</a> <a href="page.do?publDate=2%2F3%2F18&id=17001&pageNo=2">2</a>
    <a href="page.do?publDate=2/3/2018&id=17001&pageNo=3">3</a>
    <a href="page.do?publDate=2/3/2018&id=17002">ένθετο</a>
    <a href="page.do?publDate=1/3/2018&id=17000">χτες</a>
    <a href="/wwwengine/story.do?id=5">α</a> <a href="story.do?id=4">β</a> <a href="story.do?id=5">α</a>"""
    issue = site.parse_issue_page(as_page(html, "http://x/page.do?publDate=2/3/2018"))
    assert (issue.edition, issue.other_editions, issue.total) == (17001, (17002,), 3)
    assert issue.stories == (5, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1253"])
def test_the_embedded_newspaper_is_read_back_as_it_was_written(encoding: str):
    articles = read_articles("data/demo/articles.jsonl")
    newspaper = Newspaper(articles, [], {})
    for wanted in articles:
        html = newspaper.story(story_id(wanted))
        assert html
        url = f"http://127.0.0.1:9/story.do?id={story_id(wanted)}"
        story = site.parse_story(as_page(html.encode(encoding, "xmlcharrefreplace"), url))
        assert story
        assert (story.kicker, story.title, story.author) == (wanted["kicker"], wanted["title"], wanted["byline"])
        assert (story.section, story.date) == (wanted["section"], wanted["date"])
        assert story.text.split() == wanted["text"].split()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1253"])
def test_a_story_is_read_back_as_it_was_written(encoding: str):
    newspaper = Newspaper(ARTICLES, ["2018-03-03"], {})
    for wanted in ARTICLES:
        html = newspaper.story(story_id(wanted))
        assert html
        url = f"http://127.0.0.1:9/story.do?id={story_id(wanted)}"
        story = site.parse_story(as_page(html.encode(encoding), url))
        assert story
        text = str(wanted["text"])
        assert story.text == "\n".join(part.strip() for part in text.split("\n\n"))
        assert story.word_count == len(text.split())
        assert (story.story_id, story.date) == (story_id(wanted), wanted["date"])
        assert (story.kicker, story.title, story.author) == (
            wanted["kicker"],
            wanted["title"],
            wanted["byline"],
        )
        assert (story.section, story.page, story.subtitle) == (
            wanted["section"],
            3 if wanted is ARTICLES[2] else 2,
            "",
        )
        assert story.edition.isdecimal()


def test_odd_stories():
    head = "Σάββατο 3 Μάρτη 2018 <b>ΡΙΖΟΣΠΑΣΤΗΣ</b> Σελίδα 4<br>ΔΙΕΘΝΗ"
    assert site.parse_story(as_page(f"<body>{head}<p>No article</p></html>")) is None
    assert site.parse_story(as_page(f"<body>{head}<div class='story_body'> <div class='image'>x</div></div>")) is None
    untitled = site.parse_story(as_page(f"<body>{head}<div class='story_body'>Κείμενο<br>δύο</div></body>"))
    assert untitled and (untitled.title, untitled.text, untitled.page) == ("", "Κείμενο\nδύο", 4)
    body = """<div class="title3">ΑΘΗΝΑ</div><div class="title1">Τίτλος<br>σε δύο</div>
    <div class="title5">Υπότιτλος</div>
    <div class="story_body extra"><!-- not this --><p>Με <b>έν</b>τονα
    γράμματα.<p>Πίνακας:<table><tr><td>1</td><td>2</td></tr></table><script>x()</script>
    <p>Τέλος &amp; αρχή.<p>Κορυφή σελίδας<p>promo</div>"""
    story = site.parse_story(as_page(f"<body>{head}{body}</body>"))
    assert story and (story.kicker, story.title, story.subtitle) == ("ΑΘΗΝΑ", "Τίτλος σε δύο", "Υπότιτλος")
    assert story.text == "Με έντονα γράμματα.\nΠίνακας:\nΤέλος & αρχή."
    laid_out = "<div class='story_body'><table><tr><td><p>Ολο το κείμενο.</td></tr></table></div>"
    in_a_table = site.parse_story(as_page(f"<body>{head}{laid_out}"))
    assert in_a_table and in_a_table.text == "Ολο το κείμενο."


def test_the_sites_own_word_counts():
    html = """<a href="story.do?id=11">Α</a> αρχή... <br>1233 λέξεις, σελ.: 20 <a href="x">no</a>
    <a href="/wwwengine/story.do?id=12">Β</a> αρχή... <i>95 λέξεις, στήλη: ΓΝΩΜΗ, σελ.: 3</i>"""
    assert site.parse_word_counts(as_page(html)) == {11: 1233, 12: 95}
