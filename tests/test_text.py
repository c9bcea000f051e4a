"""Rules on text: `python -m pytest tests/test_text.py`."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oracle import alphabets, greek, text

RULES = [
    text.normalize,
    text.redecode,
    lambda string: text.redecode(string, "cp1253"),
    text.tidy_blanks,
    text.unify_dots,
    text.repair_soft_dashes,
    text.unify_bullets,
    text.drop_lost_bytes,
    text.drop_repeated_lines,
    text.drop_number_lines,
    greek.repair_stray_beta,
    greek.repair_pilcrow,
    greek.repair_apostrophe,
    greek.unify_technical_signs,
    greek.drop_joiners,
    lambda string: alphabets.unify(string, "GREEK"),
    lambda string: alphabets.unify(string, "CYRILLIC"),
    greek.repair_articles,
    greek.drop_photo_credits,
]
# Letters and signs that the rules look at, so that short random texts meet them.
ALPHABET = st.sampled_from("αΑΒΙΟΡΣΥΧοντάΆaABEHIOPXovµ∆μΔ«»·°±§¶’'.…-–;!?0123 \n\t\r\u00a0\u00ad\ufffdÎ±ÃÁè\x96")


@pytest.mark.parametrize("rule", RULES)
@given(string=st.text(ALPHABET, max_size=40) | st.text(max_size=40))
@example(string="Β«πόνεσεΒ»\u00a0Β")
@example(string="- -α\n--β")
@example(string="α\u200d\u200c👩\u200d\u200d🚒")
def test_every_rule_is_idempotent(rule, string):
    once = rule(string)
    assert rule(once) == once


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("α\r\nβ\rγ\u2028δ", "α\nβ\nγ\nδ"),
        ("ψω\u00adμί", "ψωμί"),
        ("\ufeffένα\u200bδύο", "έναδύο"),
        ("می\u200cخواهم क्\u200dष 👩\u200d🚒", "می\u200cخواهم क्\u200dष 👩\u200d🚒"),  # joiners carry meaning
        ("100\u00a0ευρώ\u202fτο", "100 ευρώ το"),
        ("ά".replace("ά", "\u1f71"), "ά"),  # oxia -> tonos
        ("τι\u037e", "τι;"),  # the Greek question mark
        ("α\u0387", "α·"),  # ano teleia
        ("\u2126", "Ω"),
        ("½ ﬁ …", "½ ﬁ …"),  # what NFKC would rewrite
    ],
)
def test_normalize(raw, clean):
    assert text.normalize(raw) == clean
    assert unicodedata.is_normalized("NFC", text.normalize(raw))


def test_greek_loses_joiners_and_keeps_emoji():
    assert (
        greek.drop_joiners("πό\u200dλη\u200c, \u200dτα 👩\u200d🚒 ❤\ufe0f\u200d🔥")
        == "πόλη, τα 👩\u200d🚒 ❤\ufe0f\u200d🔥"
    )


def test_blanks_and_empty_lines():
    assert text.tidy_blanks("  α  β \n\n\n\n γ\tδ \n") == "α β\n\nγ δ"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Και μετά…", "Και μετά..."),
        ("όχι......", "όχι..."),
        ("τέλος.", "τέλος."),
        ("κ.. α", "κ.. α"),
        ("α.…", "α..."),
    ],
)
def test_dots(raw, clean):
    assert text.unify_dots(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("--Η ΕΑΜ-ΕΛΑΣ", "- Η ΕΑΜ-ΕΛΑΣ"),
        ("-Σύνταξη", "- Σύνταξη"),
        ("- «Ποτέ»", "- «Ποτέ»"),
        ("-5 βαθμοί", "-5 βαθμοί"),
        ("– Ποιος είναι;", "– Ποιος είναι;"),
        ("-----", "-----"),
        ("«Ναι» “όχι” -- ίσως", "«Ναι» “όχι” -- ίσως"),
    ],
)
def test_bullets_change_only_the_opening_of_a_line(raw, clean):
    assert text.unify_bullets(raw) == clean


def test_soft_hyphens_that_are_dashes():
    spoken = "την πόρτα \u00adείναι αυτή που υπάρχει και τώρα\u00ad και υπήρχε"
    assert text.repair_soft_dashes(spoken) == "την πόρτα -είναι αυτή που υπάρχει και τώρα- και υπήρχε"
    hyphenated = "δια\u00adβατή\u00adριο \u00adκαι"
    assert text.repair_soft_dashes(hyphenated) == hyphenated


def test_a_caption_printed_twice_is_printed_once():
    caption = "Από τη χτεσινή συγκέντρωση στο λιμάνι"
    assert (
        text.drop_repeated_lines(f"{caption}\n\n{caption}.\nΧιλιάδες ήταν εκεί.") == f"{caption}\n\nΧιλιάδες ήταν εκεί."
    )
    assert text.drop_repeated_lines("* * *\n* * *") == "* * *\n* * *"
    assert text.drop_repeated_lines("α\nβ\nα") == "α\nβ\nα"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("ΠΑΟΚ 34 22 8 4 74", False),
        ("1 2 Χ 1 1 2", False),
        ("Ο Ολυμπιακός νίκησε με 3-1 την ΑΕΚ", True),
        ("Σπάρτη 4-11-1985", True),
        ("1974", True),
        ("10 νεκροί", True),
    ],
)
def test_rows_of_numbers_go_and_prose_with_numbers_stays(line, kept):
    assert (text.drop_number_lines(line) == line) is kept


SENTENCE = "Η Αθήνα ξύπνησε χτες με απεργία, είπε ο κ. Παπάς."


def read_as(data, codec):
    """As a browser reads it: an undefined byte is the C1 control of the same number."""
    return "".join(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in data)


@pytest.mark.parametrize("codec", ["cp1253", "cp1252", "latin-1"])
def test_utf8_read_with_another_codec_is_put_back(codec):
    wrong = read_as(SENTENCE.encode(), codec)
    assert text.redecode(wrong, "cp1253") == SENTENCE
    assert text.misread_share(wrong, "cp1253") > 0.5


@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_the_code_page_read_as_latin_is_put_back(codec):
    assert text.redecode(SENTENCE.encode("cp1253").decode(codec), "cp1253") == SENTENCE


def test_twice_misread_is_twice_put_back():
    assert text.redecode(read_as(read_as(SENTENCE.encode(), "cp1253").encode(), "cp1252"), "cp1253") == SENTENCE


@pytest.mark.parametrize(
    "good",
    [
        SENTENCE,
        "Déjà vu à l'été, où l'élève élève.",
        "«ΤΟ ΠΑΣΟΚ» και «Η ΠΝΟΗ»: «ΧΡΟΝΙΚΑ ΙΣΡΑΗΛ»",
        "plain",
        "Β' Εθνική",
    ],
)
def test_right_text_is_not_redecoded(good):
    assert text.redecode(good, "cp1253") == good
    assert text.misread_share(good, "cp1253") < 0.15


def test_a_lost_byte_is_not_guessed():
    wrong = read_as(SENTENCE.encode(), "cp1253").replace("\x81", "\ufffd")
    assert text.redecode(wrong, "cp1253") == wrong
    assert text.misread_share(wrong, "cp1253") > 0.5


def test_stray_beta():
    assert greek.repair_stray_beta("Β«πόνεσεΒ» είπε") == "«πόνεσε» είπε"
    assert greek.repair_stray_beta("λέξηΒ\u00a0λέξη στους 20Β°") == "λέξη\u00a0λέξη στους 20°"
    ordinal = "Η Β\u00a0Εθνική και η «Ομάδα Β» της Β κατηγορίας"
    assert greek.repair_stray_beta(ordinal) == ordinal


def test_pilcrow_is_alpha_and_aphaeresis_is_greek():
    assert greek.repair_pilcrow("Η ¶ρτα. ¶ 3") == "Η Άρτα. ¶ 3"
    assert greek.repair_pilcrow("θα ’ρθει") == "θα ’ρθει"


def test_macintosh_apostrophe():
    assert greek.repair_apostrophe("νΥ αντιμετωπιστεί σΥ αυτό, απΥ τον ΥΠΟΥΡΓΟ") == (
        "ν’ αντιμετωπιστεί σ’ αυτό, απ’ τον ΥΠΟΥΡΓΟ"
    )


def test_technical_signs():
    assert greek.unify_technical_signs("µε το ∆ήµο 5 µm και ∆x") == "με το Δήμο 5 µm και ∆x"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Eυρώπη", "Ευρώπη"),
        ("ΠAΟ", "ΠΑΟ"),
        ("ΓEΩPΓAKΟΠΟYΛΟY", "ΓΕΩΡΓΑΚΟΠΟΥΛΟΥ"),
        ("θέσιv", "θέσιν"),
        ("ΝBC", "NBC"),
        ("Οscar", "Oscar"),
        ("NATO", "NATO"),
        ("ΝΑΤΟ", "ΝΑΤΟ"),
        ("Ωmega", "Ωmega"),
        ("ΙX", "IX"),
        ("ΕΑΜ-ΕΛΑΣ", "ΕΑΜ-ΕΛΑΣ"),
    ],
)
def test_one_alphabet_a_word(raw, clean):
    assert alphabets.unify(raw, "GREEK") == clean


def test_a_word_of_twins_follows_the_text():
    assert alphabets.unify("είδα Tον άνθρωπο", "GREEK").split()[1] == "Τον"
    assert alphabets.unify("the ΤHE word", "GREEK").split()[1] == "THE"


def test_a_small_twin_between_greek_words():
    assert alphabets.unify("είπε o υπουργός", "GREEK") == "είπε ο υπουργός"
    assert alphabets.unify("the o of Greek: ο", "GREEK") == "the o of Greek: ο"


def test_cyrillic_has_twins_too():
    assert alphabets.unify("Oвe субoте је дoмaћин NATO", "CYRILLIC") == "Ове суботе је домаћин NATO"
    assert alphabets.unify("рeклa je у субoту", "CYRILLIC") == "рекла је у суботу"


def test_latin_article():
    assert greek.repair_articles("H Λα Κορούνια. O «Άρης» και η βιταμίνη H που") == (
        "Η Λα Κορούνια. Ο «Άρης» και η βιταμίνη H που"
    )
    assert greek.repair_articles("H Deutsche Bank") == "H Deutsche Bank"


def test_house_style_stays():
    style = "'Αποψη: Ολοι στο δρόμο τον Οχτώβρη, είπε ο «σοφός» στη δουλιά “του”\nΣΕ ΟΛΗ ΤΗ ΧΩΡΑ"
    for rule in RULES:
        assert rule(style) == style


def test_photo_credits():
    assert (
        greek.drop_photo_credits("Eurokinissi\nΤο Reuters γράφει\n(ΑΠΕ-ΜΠΕ)\nAssociated Press") == "Το Reuters γράφει"
    )


def test_teasers():
    assert greek.is_teaser("Μέτρα σε βάρος του λαού\nΣΕΛ.  16 - 17")
    assert not greek.is_teaser("Δείτε τη σελ. 16 του βιβλίου")
