"""Probes: counted rightly, bad files named, and the shipped ones what they say they are."""

import json
import unicodedata
from collections import Counter

import pytest

from oracle.cli import UsageError, UserError
from oracle.probes import FOLDER, Probe, probe_file, read_probes, score
from oracle.quality import LANGUAGES, script_share


def test_accuracy_by_sum_and_per_byte():
    probes = [
        Probe("a", ("right", "wrong")),
        Probe("a", ("long and right", "no")),  # dearer in all, cheaper per byte
        Probe("b", ("tie", "eit")),  # no preference is no right answer
        Probe("c", ("one", "two", "six", "ten")),
    ]
    costs = {
        "right": 1,
        "wrong": 2,
        "long and right": 7,
        "no": 5,
        "tie": 3,
        "eit": 3,
        "one": 1,
        "two": 2,
        "six": 3,
        "ten": 4,
    }
    found = score(probes, lambda texts: [costs[text] for text in texts], lambda texts: [len(t.split()) for t in texts])
    assert [(s.kind, s.probes, s.chance, s.by_length, s.accuracy, s.accuracy_per_byte) for s in found] == [
        ("a", 2, 0.5, 0.25, 0.5, 1.0),  # as long, and longer
        ("b", 1, 0.5, 0.5, 0.0, 0.0),
        ("c", 1, 0.25, 0.25, 1.0, 1.0),
    ]


def test_a_gap_is_filled_and_text_takes_the_form_models_are_trained_on(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"kind": "k", "text": "το ___;", "choices": ["νερό", "νερο\u0301\u0301"]}\n\n', encoding="utf-8")
    assert read_probes(path) == [Probe("k", ("το νερό;", unicodedata.normalize("NFC", "το νερο\u0301\u0301;")))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a probe"),
        ('{"kind": "k", "good": "α"}', "not a probe"),
        ('{"good": "α", "bad": "β"}', "not a probe"),
        ('{"kind": "k", "good": "α", "bad": ""}', "not a probe"),
        ('{"kind": "k", "good": "α", "bad": "α"}', "all be different"),
        ('{"kind": "k", "text": "α", "choices": ["α", "β"]}', "not a probe"),
        ('{"kind": "k", "text": "___", "choices": ["α", 3]}', "not a probe"),
        ('{"kind": "k", "text": "___", "choices": ["α"]}', "all be different"),
        ('{"kind": "k", "text": "___", "choices": ["α", "β", "β"]}', "all be different"),
    ],
)
def test_a_line_that_is_no_probe_is_named(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"kind": "k", "good": "α", "bad": "β"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        read_probes(path)


def test_no_file_no_probe_no_utf8_no_language(tmp_path):
    empty, other = tmp_path / "empty.jsonl", tmp_path / "other.jsonl"
    empty.write_text("\n")
    other.write_bytes("νερό".encode("cp1253"))
    for path, message in ((tmp_path / "none", "no such file"), (empty, "no probe"), (other, "invalid UTF-8")):
        with pytest.raises(UserError, match=message):
            read_probes(path)
    with pytest.raises(UsageError, match=r"'xx' has no probes; there are some for .*el"):
        probe_file("xx")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_shipped_probes(path):
    """Enough of each kind, no sentence twice, in the language's own letters, and pairs differ in one place only."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    probes = read_probes(path)
    assert {row["language"] for row in rows} == {path.stem}
    assert min(Counter(probe.kind for probe in probes).values()) >= 30
    right = [probe.sentences[0] for probe in probes]
    assert len(set(right)) == len(right)
    for row, probe in zip(rows, probes, strict=True):
        assert all(s == unicodedata.normalize("NFC", s) and "  " not in s for s in probe.sentences)
        assert script_share("".join(probe.sentences), LANGUAGES[path.stem].script) == 1
        if "good" in row:
            assert max(map(len, middles(row["good"].split(), row["bad"].split()))) <= 3, row
        else:
            assert len(row["choices"]) == 4


def middles(a: list[str], b: list[str]) -> tuple[list[str], list[str]]:
    """What is left of two sentences without the words they share at both ends."""
    for _ in range(2):
        while a and b and a[0] == b[0]:
            a, b = a[1:], b[1:]
        a, b = a[::-1], b[::-1]
    return a, b
