"""Good text spoilt by rules, and what must never be spoilt. Run: pytest tests/test_corrupt.py"""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.preferences import greek, polish, serbian
from data.preferences.corrupt import main, pair
from data.preferences.differ import differences
from data.preferences.edits import Edit, apply, restore, words_of
from data.preferences.from_model import Asked, Judge, likeness, read_questions, vocabulary
from data.preferences.from_model import main as own_main
from data.preferences.from_model import pair as own_pair
from data.preferences.from_model import pairs as own_pairs
from data.preferences.sources import Good, good_texts, passages
from data.preferences.spoil import LANGUAGES, Dose, spoil
from oracle.cli import UsageError, UserError
from oracle.sampling import SamplingParams

GREEK_TEXT = (
    "Ο δήμαρχος Νίκος Παπαδόπουλος είπε χθες ότι η γέφυρα θα μείνει κλειστή για 14 μέρες και οι κάτοικοι θα πηγαίνουν από τον παλιό"
    " δρόμο. Την Τρίτη το συνεργείο της Περιφέρειας κατέβηκε με βάρκα στο ποτάμι, και η υπηρεσία του ΟΤΕ έγραψε στο https://example.gr/νέα"
    " πως το wifi αλλάζει. «Δεν ξέρω πού θα βρεθούν τα χρήματα, ό,τι κι αν λένε», απάντησε ο φίλος μου απ’ το χωριό στις 21:30."
)
TEXTS = {
    "el": GREEK_TEXT,
    "en": "The mayor of London said on Monday that the bridge would stay closed for 14 days, and people should walk around it.",
    "pl": "Wczoraj burmistrz Krakowa powiedział, że most będzie zamknięty przez 14 dni, a mieszkańcy muszą chodzić dłuższą drogą do morza.",
    "sr": "Градоначелник Београда је јуче рекао да ће мост бити затворен 14 дана, а људи не могу да пређу реку код старе цркве у месту.",
}
ALL = Dose(rate=0.3, most=100)


def spoilt(text: str, code: str, seed: int, dose: Dose = ALL) -> tuple[str, list[Edit]]:
    edits = spoil(text, code, random.Random(seed), dose)
    return apply(text, edits), edits


@pytest.mark.parametrize("code", LANGUAGES)
@given(seed=st.integers(0, 2**32))
def test_the_reverse_edit_restores_the_text_and_something_changed(code: str, seed: int):
    wrong, edits = spoilt(TEXTS[code], code, seed)
    assert edits and wrong != TEXTS[code]
    assert restore(wrong, edits) == TEXTS[code]
    assert all(edit.was != edit.now and TEXTS[code][edit.start : edit.end] == edit.was for edit in edits)


@given(text=st.text(alphabet="αβγδεκλμνοςστωάέίόύώ ΑΒΓ.,;'’19aZ@/\n", max_size=200), seed=st.integers(0, 100))
def test_any_text_is_restored(text: str, seed: int):
    wrong, edits = spoilt(text, "el", seed)
    assert restore(wrong, edits) == text


@given(text=st.text(max_size=120), code=st.sampled_from(sorted(LANGUAGES)), seed=st.integers(0, 9))
def test_no_text_whatever_breaks_it(text: str, code: str, seed: int):
    wrong, edits = spoilt(text, code, seed)
    assert restore(wrong, edits) == text and (not edits or wrong != text)


KEPT = (
    "Νίκος",
    "Παπαδόπουλος",
    "14",
    "Περιφέρειας",
    "ΟΤΕ",
    "https://example.gr/νέα",
    "wifi",
    "απ’",
    "21:30",
    "Την",
    "Τρίτη",
)


@given(seed=st.integers(0, 2**32))
def test_names_numbers_addresses_and_foreign_words_stay(seed: int):
    wrong, _ = spoilt(GREEK_TEXT, "el", seed, ALL._replace(degeneration=0))
    assert all(word in re.split(r"[\s,.;«»]+(?!gr)", wrong) or word in wrong.split() for word in KEPT)


@pytest.mark.parametrize("most", [2, 5, 10])
@given(seed=st.integers(0, 2**32))
def test_never_more_edits_than_allowed(most: int, seed: int):
    _, edits = spoilt(GREEK_TEXT * 3, "el", seed, Dose(0.5, most, degeneration=0))
    assert 1 <= len(edits) <= max(1, most * len((GREEK_TEXT * 3).split()) / 100)


def test_the_same_seed_the_same_pair_whatever_else_there_is():
    good = Good("a", "Ερώτηση;", GREEK_TEXT, "corpus")
    assert pair(good, "el", 1, Dose()) == pair(good, "el", 1, Dose())
    assert len({json.dumps(pair(good, "el", seed, Dose())) for seed in range(20)}) > 15


def test_the_mix_is_kept():
    names = {rule.kind: "spelling" for rule in greek.LANGUAGE.spelling} | {
        r.kind: "grammar" for r in greek.LANGUAGE.grammar
    }
    groups = [names.get(spoilt(GREEK_TEXT, "el", seed, Dose())[1][0].kind, "degeneration") for seed in range(600)]
    shares = {group: groups.count(group) / 600 for group in set(groups)}
    assert 0.64 < shares["spelling"] < 0.76 and 0.15 < shares["grammar"] < 0.25 and 0.06 < shares["degeneration"] < 0.14


@pytest.mark.parametrize(
    ("rule", "word", "following", "wrong"),
    [
        (greek.homophone, "καλημέρα", "", "καλιμέρα"),
        (greek.homophone, "άνθρωπος", "", "άνθροπος"),
        (greek.homophone, "έρχεται", "", "έρχετε"),
        (greek.homophone, "αυτός", "", "αφτός"),
        (greek.homophone, "εύκολα", "", "έφκολα"),
        (greek.homophone, "αυλή", "", "αβλή"),
        (greek.homophone, "είναι", "", "ήναι"),
        (greek.accent, "θάλασσα", "", "θαλασσα"),
        (greek.accent, "θάλασσα", "", "θαλάσσα"),
        (greek.accent, "παίρνει", "", "παιρνεί"),
        (greek.double_consonant, "θάλασσα", "", "θάλασα"),
        (greek.double_consonant, "παρέλαση", "", "παρέλλαση"),
        (greek.final_nu, "την", "πόλη", "τη"),
        (greek.final_nu, "τη", "δουλειά", "την"),
        (greek.final_nu, "δεν", "μπορώ", "δε"),
        (greek.confused, "που", "", "πού"),
        (greek.confused, "ό,τι", "", "ότι"),
        (greek.ending, "δρόμους", "", "δρόμοι"),
        (greek.ending, "βρίσκονται", "", "βρίσκεται"),
        (greek.ending, "μεγάλης", "", "μεγάλη"),
        (greek.ending, "παιδιών", "", "παιδιούς"),
        (greek.final_sigma, "πατέρας", "μου", "πατέρα"),
        (greek.article, "της", "θάλασσας", "του"),
        (polish.mark_lost, "będzie", "", "bedzie"),
        (polish.nasal, "będzie", "", "bendzie"),
        (polish.joined_not, "nie", "wiem", "niewiem"),
        (serbian.yat, "дете", "", "дијете"),
        (serbian.yat, "млијеко", "", "млеко"),
        (serbian.joined_not, "не", "знам", "незнам"),
        (serbian.lost_h, "хтео", "", "тео"),
    ],
)  # fmt: skip
def test_the_rules_make_the_usual_mistakes(rule, word: str, following: str, wrong: str):
    assert wrong in rule(word, following)


@pytest.mark.parametrize(
    ("rule", "word", "following"),
    [
        (greek.final_nu, "την", "δουλειά"),  # a ν too many is no sign of a bad writer where the good text has it
        (greek.final_nu, "τη", "πόλη"),
        (greek.article, "της", "είπε"),  # a pronoun, and του είπε is as good
        (greek.accent, "και", ""),
        (greek.homophone, "και", ""),
        (greek.ending, "καθόλου", ""),
        (serbian.yat, "санкције", ""),
    ],
)
def test_the_rules_leave_alone_what_they_cannot_spoil(rule, word: str, following: str):
    assert not rule(word, following)


def test_two_right_spellings_are_no_error():
    assert "αβγό" not in greek.homophone("αυγό") and "αφτί" not in greek.homophone("αυτί")


def test_polish_letters_and_serbian_in_both_alphabets():
    rules = {rule.kind: rule.forms for rule in polish.LANGUAGE.spelling}
    assert (
        "żeka" in rules["rz/ż"]("rzeka", "")
        and "gura" in rules["ó/u"]("góra", "")
        and "hleb" in rules["ch/h"]("chleb", "")
    )
    assert rules["ch/h"]("chleb", "") == ["hleb"] and not rules["rz/ż"]("marznie", "")
    cyrillic, latin = ({r.kind: r.forms for r in lang.spelling} for lang in (serbian.IN_CYRILLIC, serbian.IN_LATIN))
    assert cyrillic["č/ć"]("кућа", "") == ["куча"] and latin["č/ć"]("kuća", "") == ["kuča"]
    assert "dijete" in latin["ije/je/e"]("dete", "")
    assert serbian.to_latin(serbian.to_cyrillic("ljubav njegova džep")) == "ljubav njegova džep"


def test_what_is_not_touched():
    found = [
        word.text
        for word in words_of("Ο Άρης πήγε 3ος απ' τη www.site.gr π.χ. με το email a@b.gr, ό,τι είπε", greek.LETTERS)
    ]
    assert found == ["πήγε", "τη", "με", "το", "ό,τι", "είπε"]


def test_an_edit_of_another_text_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        apply("άλλο", [Edit("accent", 0, 4, "ένα ", "ενα ")])


def test_real_errors_are_told_apart():
    right = "Ο άνθρωπος που θέλει την αλλαγή δεν έρχεται."
    wrong = "Ο ανθρωπος που θέλη τη αλαγή δεν έρχετε."
    edits = differences(right, wrong, "el")
    assert [edit.kind for edit in edits] == ["accent", "homophone", "final nu", "double consonant", "homophone"]
    assert apply(right, edits) == wrong


@given(st.lists(st.sampled_from(["ένα", "δύο", "τρία", "καὶ", ",", ".", "τέσσερα\n"]), max_size=12), st.randoms())
def test_differences_make_the_wrong_text_of_the_right_one(words: list[str], chance: random.Random):
    right, wrong = " ".join(words), " ".join(word for word in words if chance.random() < 0.7)
    assert apply(right, differences(right, wrong, "el")) == wrong


def test_passages_are_whole_sentences():
    text = (
        "Πρώτη πρόταση εδώ. Η δεύτερη πρόταση είναι εδώ. Τρίτη, κι αυτή μεγάλη. Η τέταρτη είναι η τελευταία όλων. Μόνη."
    )
    assert list(passages(text, 3, 6, 5)) == [
        ("Πρώτη πρόταση εδώ.", "Η δεύτερη πρόταση είναι εδώ."),
        ("Τρίτη, κι αυτή μεγάλη.", "Η τέταρτη είναι η τελευταία όλων."),
    ]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(corpus: Path, out: Path, *more: str) -> list[dict]:
    main([f"--corpus={corpus}", f"--out={out}", "--language=el", *more])
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_a_corpus_conversations_and_corrections_become_pairs(tmp_path: Path, capsys):
    corpus = write(tmp_path / "a.jsonl", {"id": "1", "text": GREEK_TEXT}, {"id": "2", "text": GREEK_TEXT})
    rows = run(corpus, tmp_path / "out.jsonl", "--prompt_words=5")
    said = capsys.readouterr().out
    assert len(rows) == 1 and "1 repeated ones left out" in said and "MB/s" in said
    assert (
        rows[0]["prompt"] in GREEK_TEXT and rows[0]["chosen"] in GREEK_TEXT and rows[0]["rejected"] != rows[0]["chosen"]
    )
    assert restore(rows[0]["rejected"], [Edit(**edit) for edit in rows[0]["edits"]]) == rows[0]["chosen"]

    chats = write(tmp_path / "b.jsonl", {"question": "Τι έγινε;", "answer": GREEK_TEXT})
    rows = run(chats, tmp_path / "out.jsonl")
    assert rows[0]["prompt"] == "Τι έγινε;" and rows[0]["chosen"] == GREEK_TEXT and rows[0]["source"] == "conversation"

    fixed = write(tmp_path / "c.jsonl", {"wrong": "Η θαλασσα είναι.", "right": "Η θάλασσα είναι."})
    rows = run(fixed, tmp_path / "out.jsonl")
    assert rows[0]["rejected"] == "Η θαλασσα είναι." and rows[0]["kind"] == "accent" and "θαλασσα" in rows[0]["prompt"]


def test_nothing_to_spoil_leaves_the_old_file(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(UserError, match="is --language right"):
        run(write(tmp_path / "a.jsonl", {"question": "2;", "answer": "ΑΒΓ 14"}), out)
    with pytest.raises(UserError, match="line 2"):
        run(write(tmp_path / "b.jsonl", {"wrong": "α", "right": "β"}, {"wrong": "α", "right": ""}), out)
    assert out.read_text() == "old" and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "bad",
    ["--rate=0", "--rate=2", "--most=0", "--mix=1,2", "--mix=a,b,c", "--mix=0,0,0", "--per_document=0", "--out=x.txt"],
)
def test_impossible_settings_are_refused(tmp_path: Path, bad: str):
    with pytest.raises(UsageError):
        run(write(tmp_path / "a.jsonl", {"text": GREEK_TEXT}), tmp_path / "out.jsonl", bad)


def test_conversations_with_bad_lines_can_be_read_all_the_same(tmp_path: Path):
    rows = [{"question": "Τι;", "answer": f"{GREEK_TEXT} {number}"} for number in range(100)]
    chats = write(tmp_path / "a.jsonl", *rows, {"question": "Τι;"})
    with pytest.raises(UserError, match="line 101"):
        list(good_texts(chats, "el", 5, 5, 1))
    assert len(list(good_texts(chats, "el", 5, 5, 1, skip=True))) == 100


# A model's own answers.

JUDGE = Judge(frozenset(["η", "γέφυρα", "έκλεισε", "χθες", "για", "όλους", "στην", "πόλη"]))
ASKED = Asked("1", "Τι έγινε;", "")
BEST, MISSPELT, LOOP = (
    "Η γέφυρα έκλεισε χθες.",
    "Η γεφυρα εκλισε χθες.",
    "γέφυρα χθες γέφυρα χθες γέφυρα χθες γέφυρα χθες",
)


def test_loops_and_misspellings_are_worse_and_likeness_is_better():
    assert JUDGE.badness(BEST, "") == 0 < JUDGE.badness(MISSPELT, "") < JUDGE.badness(LOOP, "") < JUDGE.badness("", "")
    assert likeness(BEST, BEST) == 1 and likeness(BEST, "xyz") == 0 and 0 < likeness(BEST, MISSPELT) < 1
    assert JUDGE.badness(BEST, BEST) < JUDGE.badness(BEST, "Άνοιξε ξανά το λιμάνι.")
    assert Judge(frozenset()).misspelt(MISSPELT) == 0


def test_the_worst_answer_is_rejected_for_the_best_or_for_the_reference():
    row = own_pair(ASKED, [MISSPELT, LOOP, BEST], JUDGE, 0.1)
    assert row and (row["chosen"], row["rejected"], row["kind"]) == (BEST, LOOP, "own answer")
    row = own_pair(ASKED._replace(reference="Η γέφυρα έκλεισε."), [BEST, LOOP], JUDGE, 0.1)
    assert row and row["chosen"] == "Η γέφυρα έκλεισε."
    assert own_pair(ASKED, [BEST, BEST], JUDGE, 0.0) is None and own_pair(ASKED, [BEST, ""], JUDGE, 0.1) is None
    assert own_pair(ASKED, [BEST, MISSPELT], JUDGE, 1.0) is None


def test_questions_come_with_and_without_answers(tmp_path: Path):
    plain = write(tmp_path / "a.jsonl", {"id": 7, "prompt": "Τι έγινε;"})
    assert read_questions(plain) == [Asked("7", "Τι έγινε;", "")]
    full = write(tmp_path / "b.jsonl", {"question": "Τι έγινε;", "answer": "Αυτό."})
    assert read_questions(full)[0].reference == "Αυτό."
    with pytest.raises(UserError, match="line 2"):
        read_questions(write(tmp_path / "c.jsonl", {"prompt": "Τι έγινε;"}, {"prompt": ""}))


def test_words_seen_once_are_no_vocabulary(tmp_path: Path):
    corpus = write(tmp_path / "a.jsonl", {"text": "Η γέφυρα έκλεισε. Η γέφυρα ανιξε."}, {"text": "Τώρα έκλεισε."})
    assert vocabulary(corpus) == {"γέφυρα", "έκλεισε"}


class Writer:
    """Answers in place of an engine: the n-th sample of a question is what its seed says."""

    block_size, name = 64, "writer"

    class template:  # noqa: N801
        stop_tokens = (9,)

        @staticmethod
        def trimmed(messages: list[dict[str, str]], limit: int) -> tuple[list[int], int]:
            assert messages == [{"role": "user", "content": "Τι έγινε;"}] and limit == 44
            return [1, 2], 0

    def complete(self, prompts: list[list[int]], params: list[SamplingParams]) -> list[SimpleNamespace]:
        assert all(own.stop_tokens == (9,) and own.max_new_tokens == 20 for own in params)
        return [SimpleNamespace(text={5: BEST, 6: LOOP, 7: MISSPELT}[own.seed]) for own in params]


def test_each_sample_has_a_seed_of_its_own():
    made = own_pairs(Writer(), [ASKED], JUDGE, 3, SamplingParams(20, seed=5), 0.1)
    assert [(row["chosen"], row["rejected"]) for row in made] == [(BEST, LOOP)]


def test_a_run_that_does_not_answer_is_refused(tmp_path: Path):
    prompts = write(tmp_path / "a.jsonl", {"prompt": "Τι έγινε;"})
    with pytest.raises(UserError, match="does not exist"):
        own_main([str(tmp_path / "none"), f"--prompts={prompts}", f"--out={tmp_path / 'o.jsonl'}"])
    with pytest.raises(UsageError, match="samples"):
        own_main([str(tmp_path), f"--prompts={prompts}", f"--out={tmp_path / 'o.jsonl'}", "--samples=0"])
