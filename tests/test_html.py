"""Articles from pages: `python -m pytest tests/test_html.py`."""

import pytest
from bs4 import BeautifulSoup

from oracle import html

FIRST = "Χιλιάδες εργαζόμενοι πλημμύρισαν χτες τους δρόμους της πόλης, απαιτώντας αυξήσεις στους μισθούς τους."
SECOND = "Το απόγευμα έγινε σύσκεψη στο Εργατικό Κέντρο, όπου αποφασίστηκε νέα κινητοποίηση για την Πέμπτη."

MODERN = f"""<!doctype html><html><head><title>Απεργία - Εφημερίδα</title>
<meta property="article:published_time" content="2020-08-19T21:02:00+03:00">
<link rel="canonical" href="https://example.gr/apergia"><style>p {{color: red}}</style></head>
<body class="single related-posts">
<header><nav><a href="/">ΕΙΔΗΣΕΙΣ</a> <a href="/t">ΤΟΠΙΚΑ</a></nav></header>
<main><article><h1>Απεργία στην πόλη</h1>
<div class="share-buttons">Μοιραστείτε το στο facebook</div>
<figure><img alt="Από τη συγκέντρωση"><figcaption>Από τη συγκέντρωση</figcaption></figure>
<div class="text"><p>{FIRST}</p><div class="ad">Διαφήμιση</div><p>{SECOND}</p>
<p><a href="/1">Διαβάστε επίσης: Νέα μέτρα εξήγγειλε χτες η κυβέρνηση για τους συνταξιούχους</a></p></div>
<section class="comments"><p>Συμφωνώ απόλυτα με όσα γράφει το άρθρο, πρέπει όλοι να κατεβούμε.</p></section>
</article></main><footer>© 2020 Εφημερίδα</footer></body></html>"""

TABLES = f"""<html><head><title>E Online</title></head><body>
<table><tr><td><p align=center><img alt="ΚΑΙΡΟΣ"><b>
Παρασκευή 11 Αυγούστου 2000</b><a href="x">ΣΤΗΛΕΣ</a></td></p></td><td><table><tr><td>

<b>{FIRST[0]}</b><p>{FIRST[1:]}<p>
 <b>Για τους
 μισθούς<p></b>
 {SECOND}<p>
 <b>Θ. ΤΣΑΤΣΗΣ<p></b></td></tr></table></td></tr></table>
<center><table><tr><td>Copyright 1999 Εκδόσεις Α.Ε. Απαγορεύεται η αναδημοσίευση, ολική ή μερική, του
περιεχομένου της ηλεκτρονικής εφημερίδας χωρίς προηγούμενη άδεια του εκδότη.</table></center></body></html>"""


def test_a_modern_page():
    article = html.extract(MODERN)
    assert article.text == f"{FIRST}\n{SECOND}"
    assert article.title == "Απεργία στην πόλη"
    assert article.date == "2020-08-19"
    assert article.address == "https://example.gr/apergia"


def test_a_page_of_tables_unclosed_paragraphs_and_a_drop_capital():
    article = html.extract(TABLES)
    assert article.text.split("\n") == [FIRST, "Για τους μισθούς", SECOND, "Θ. ΤΣΑΤΣΗΣ"]
    assert article.title is None and article.date is None and article.address is None


def test_a_paragraph_in_an_element_of_its_own_each():
    divs = "".join(f"<div><p>{text}</p></div>" for text in (FIRST, SECOND, FIRST[::-1]))
    page = f"<body><div id=menu><a href=a>Αρχική</a></div><div>{divs}</div></body>"
    assert html.extract(page).text == f"{FIRST}\n{SECOND}\n{FIRST[::-1]}"


def test_a_class_that_names_the_whole_page_hides_nothing():
    assert html.extract(f'<body><div class="widget"><p>{FIRST}</p><p>{SECOND}</p></div></body>').text


def test_inline_tags_do_not_split_words_and_breaks_do():
    page = f"<div><p>{FIRST} Μια λέ<b>ξη</b>.<br>Νέα <a href=x>γραμμή</a></p></div>"
    assert html.extract(page).text == f"{FIRST} Μια λέξη.\nΝέα γραμμή"


def test_thousands_of_unclosed_paragraphs_are_no_problem():
    page = "<body><div>" + f"<p>{FIRST}" * 3000 + "</div></body>"
    assert html.extract(page).text.count(FIRST) == 3000


@pytest.mark.parametrize(
    "page", ["", "<html></html>", "<body><a href=x>Μόνο σύνδεσμος</a></body>", "a < b", "<!-- -->"]
)
def test_a_page_without_an_article(page):
    assert html.extract(page).text in ("", "a < b")


def test_block_text():
    tag = BeautifulSoup("<div>α<p>β <i>γ</i>δ</p><ul><li>ε<li>ζ</ul><script>x</script></div>", "html.parser")
    assert html.block_text(tag) == "α\nβ γδ\nε\nζ"


def page(text, charset=""):
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">' if charset else ""
    return f"<html><head>{meta}</head><body>{text}</body></html>"


@pytest.mark.parametrize(
    ("written", "says", "server", "codec"),
    [
        ("utf-8", "", None, "utf-8"),
        ("utf-8", "iso-8859-7", None, "utf-8"),
        ("cp1253", "", None, "cp1253"),
        ("cp1253", "windows-1253", None, "windows-1253"),
        ("cp1253", "iso-8859-7", None, "cp1253"),
        ("cp1253", "utf-8", None, "cp1253"),
        ("cp1253", "", "ISO-8859-1", "cp1253"),
        ("cp1253", "no-such-codec", None, "cp1253"),
        ("iso-8859-7", "iso-8859-7", None, "iso-8859-7"),
    ],
)
def test_codecs(written, says, server, codec):
    text = page("Άλλη μια Άνοιξη, είπε ο Άρης.", says)
    assert html.decode(text.encode(written), server, "cp1253") == (text, codec)


def test_undefined_and_stray_bytes():
    assert html.decode("Αθήνα".encode("cp1253") + b"\xd2", None, "cp1253")[0] == "Αθήνα\ufffd"
    long = ("Η Αθήνα χτες. " * 100).encode() + b"\xd2"
    assert html.decode(long, None, "cp1253")[1] == "utf-8"
