"""Document filters: `python -m pytest tests/test_quality.py`."""

import pytest

from oracle import quality

BRIEF = (
    "Στα δικαστήρια οδηγούνται σήμερα οι εργάτες του εργοστασίου που είχαν συλληφθεί την Τρίτη έξω "
    "από την πύλη. Το σωματείο καλεί σε συγκέντρωση στις 9 το πρωί για να απαιτήσει την αθώωσή τους."
)
SPORTS = (
    "Με τρεις νίκες συνέχισε η Εθνική. Στον πρώτο αγώνα νίκησε τη Σερβία 3-1 (25-21, 23-25, 25-19, 25-17) "
    "και στον δεύτερο την Ιταλία 3-2 (25-23, 20-25, 18-25, 25-22, 15-12), ενώ στον τρίτο πέρασε εύκολα από "
    "την Αυστρία με 3-0 (25-12, 25-14, 25-16). Επόμενος αντίπαλος της ομάδας είναι η Γαλλία την Κυριακή."
)
LISTING = "ΝΕΤ\n" + "\n".join(f"{hour:02}.30 Εκπομπή λόγου και μουσικής του σταθμού" for hour in range(6, 14))
ENGLISH = "The workers of the plant are in court today, and the union calls for a gathering at the gate."
POLYTONIC = (
    "Ἡ ἐφημερίδα μας θὰ ἀναλάβει κατὰ τὸ 1978 τὴ γενικὴ ἀπογραφὴ τῶν πατριωτῶν. Παρακαλεῖ τοὺς συλλόγους καὶ "
    "τοὺς ἰδιῶτες νὰ γράψουν τὸν ἀρχηγὸ τῆς οἰκογενείας καὶ δίπλα τὰ μέλη μὲ τὴν ἡλικία τους."
)


def verdicts(text, language="el"):
    checks = {
        "misread": quality.is_misread(text, language),
        "short": quality.is_short(text),
        "figures": quality.is_figures(text),
        "foreign": quality.is_foreign(text, language),
        "list": quality.is_list(text),
        "repetitive": quality.is_repetitive(text),
    }
    return {name for name, dropped in checks.items() if dropped}


@pytest.mark.parametrize("text", [BRIEF, SPORTS, POLYTONIC, "\n".join([BRIEF, SPORTS, POLYTONIC])])
def test_newspaper_prose_passes(text):
    assert verdicts(text) == set()


def test_a_notice_of_31_words_passes_and_a_headline_does_not():
    assert not quality.is_short(" ".join(BRIEF.split()[:31]))
    assert quality.is_short("Συγκέντρωση σήμερα στις 9 το πρωί")


def test_listings():
    assert quality.is_listing("ΝΕΤ\n07.00 Ειδήσεις\n08:30 Μουσική\n21.00 Ταινία\n23.10 Δελτίο")
    assert not quality.is_listing("Η συναυλία αρχίζει.\n21.00 στο πάρκο\nΕίσοδος ελεύθερη\nΟλοι εκεί.")
    assert quality.is_listing(LISTING)


def test_listing_is_a_list():
    assert "list" in verdicts(LISTING)


def test_three_lines_without_full_stops_are_not_judged():
    assert not quality.is_list("Χρόνια πολλά σε όλους\nΗ σύνταξη\nΑθήνα")


def test_long_paragraphs_are_prose_however_they_end():
    assert not quality.is_list("\n".join([(BRIEF + BRIEF).rstrip(".")] * 4))


def test_other_languages():
    assert "foreign" in verdicts(ENGLISH)
    assert verdicts(ENGLISH, "en") <= {"short"}
    assert quality.is_foreign("Παπαδόπουλος Γεωργίου Νικόλαος Ιωάννου Δημήτριος Κωνσταντίνου Αθανάσιος", "el")


def test_figures():
    assert quality.is_figures("ΑΕΚ 34 22 8 4 74 ΠΑΟ 34 20 9 5 69 και 12 13")
    assert quality.is_figures("Τ Ο Υ Ρ Κ Ι Α Κ Α Ι Ε Λ Λ Α Δ Α")


def test_repetition_of_lines_and_of_phrases():
    assert quality.is_repetitive("\n".join(["Κλικ εδώ", BRIEF, "Κλικ εδώ", SPORTS, "Κλικ εδώ"]))
    names = ("Αννα", "Μαρία", "Ελένη", "Σοφία", "Ζωή", "Ειρήνη", "Χαρά", "Νίκη", "Θάλεια", "Δανάη")
    gifts = " ".join(f"Η {name} έδωσε για την ενίσχυση του συλλόγου μας στη μνήμη του." for name in names)
    assert quality.is_repetitive(gifts)
    assert not quality.is_repetitive(BRIEF + " " + SPORTS + " " + BRIEF.replace("σήμερα", "αύριο")[:60])


def test_a_page_with_lost_bytes_is_misread():
    assert quality.is_misread(BRIEF.replace("α", "\ufffd"), "el")
    assert not quality.is_misread(BRIEF * 10 + "\ufffd", "el")


def test_guessing_the_language():
    assert quality.guess_language(BRIEF) == "el"
    assert quality.guess_language(ENGLISH) == "en"
    assert quality.guess_language("Влада је јуче рекла да се на овом месту не гради и да је то за сада све") == "sr"
    assert quality.guess_language("12 34 56") == "unknown"


def test_an_unknown_language_is_one_clear_sentence():
    with pytest.raises(ValueError, match="'tlh' is not known; give one of el, en"):
        quality.language_of("tlh")
