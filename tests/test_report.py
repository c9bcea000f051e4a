"""The report of a run: its figures by hand, its pictures as files, and runs that lack this or that."""

import json
import math
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from oracle import cli, curves, modelcard, report
from oracle.cli import UsageError, UserError
from oracle.files import sha256
from oracle.history import measure, read_history
from oracle.markdown import literal, shortened

SETTINGS = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4, "padded_vocab_size": 512}
PER_STEP = 64  # tokens: 4 sequences of 16


def training(step: int, time: float, loss: float = 3.0, **more) -> dict:
    return {
        "step": step, "loss": loss, "lr": 1e-3, "grad_norm": 0.5, "tokens": step * PER_STEP, "epoch": step / 10,
        "tokens_per_second": 1000.0, "mfu": 0.4, "time": time, **more,
    }  # fmt: skip


def evaluation(step: int, time: float, loss: float = 3.5) -> dict:
    bits = {"val_loss": loss, "val_bpb": loss / 2, "val_perplexity": math.exp(loss)}
    return {"step": step, "epoch": step / 10, **bits, "time": time}


def make_run(folder: Path, records: list[dict] | None = None, samples: Sequence[dict] = (), **settings) -> Path:
    """A run directory with a minute between its records: best at step 20, worse at step 30."""
    if records is None:
        steps = [training(s, 1000 + 60 * i, 4 - s / 20) for i, s in enumerate((10, 20, 30))]
        evaluations = [evaluation(0, 940, 6.0), evaluation(20, 1061, 3.2), evaluation(30, 1121, 3.4)]
        records = sorted([*steps, *evaluations], key=lambda r: r["time"])
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", records)
    write_lines(folder / "samples.jsonl", samples)
    return folder


def write_lines(path: Path, records) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def row(page: str, title: str) -> list[str]:
    """The cells after the first of the table row that begins with `title`."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


def size(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 10_000
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without pictures, for tests that do not look at them."""
    monkeypatch.setattr(report, "draw_all", lambda runs, folder: [])


def test_everything_is_written_and_linked(tmp_path, prepared_dir, capsys):
    run = make_run(tmp_path / "Τρέξιμο $1$", data_dir=str(prepared_dir))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks
        report.main([str(run), "--price_per_hour=0.40"])
    page = (run / "report.md").read_text(encoding="utf-8")
    titles = ["Curves", "Samples over time", "Data", "Settings", "Machine", "Time and cost"]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == titles
    linked = re.findall(r"\]\((\w+\.png)\)", page)
    assert linked == list(curves.FIGURES) and {p.name for p in run.glob("*.png")} == set(linked)
    for name in linked:
        width, height = size(run / name)
        assert width > 1400 and 500 < height < 800
    assert "wrote report.md" in capsys.readouterr().out and not list(run.glob("*.tmp"))


def test_the_figures_are_those_of_the_records(tmp_path, prepared_dir, undrawn):
    run = make_run(tmp_path / "run", data_dir=str(prepared_dir))
    report.main([str(run)])
    page = (run / "report.md").read_text(encoding="utf-8")
    assert row(page, r"**best validation, bits per byte**") == ["1.6000"]
    assert row(page, "its loss, nats per token") == ["3.2000"] and row(page, "at step") == ["20"]
    # Training between the evaluations at 0 and 20: (3.5 + 3.0) / 2.
    assert row(page, "validation minus training loss there") == ["-0.0500"]
    assert row(page, "training tokens seen") == [str(30 * PER_STEP)[:1] + ".92k"] and row(page, "epochs") == ["3.00"]
    assert row(page, "MFU") == ["40.0%"] and row(page, "peak memory, GiB") == ["not recorded"]
    assert "at step 30 its loss is 0.2000 nats per token higher" in page
    manifest = json.loads((prepared_dir / "manifest.json").read_text(encoding="utf-8"))
    assert f"xz -9 {manifest['baselines']['xz_bits_per_byte']:.4f}" in page
    assert row(page, "train")[1] == f"{manifest['splits']['train']['tokens']:,}"
    assert row(page, "n_layer") == ["2", "12"] and "learning_rate" not in page


def test_cost_by_hand(tmp_path, undrawn):
    """Two sessions of half an hour each, three hours apart, at 0.40 an hour."""
    times = [*range(0, 1801, 300), *range(12_600, 14_401, 300)]
    run = make_run(tmp_path / "run", [training(i, t) for i, t in enumerate(times, 1)])
    report.main([str(run), "--price_per_hour=0.40"])
    page = (run / "report.md").read_text(encoding="utf-8")
    assert row(page, "cost at 0.4 an hour") == ["0.40"] and row(page, "time") == ["1 h 0 min"]
    assert "1.00 hours, 0.40 at 0.4 an hour; pauses left out: 3 h 0 min (a gap of more than 25 minutes" in page


def test_sessions_that_are_recorded_say_what_a_pause_is():
    session = {"step": 0, "machine": {"device": "GPU"}}
    records = [session | {"time": 0}, training(1, 5000), training(2, 5010), session | {"time": 5100}, training(3, 5200)]
    clock = measure(records)
    assert clock.seconds == 5000 + 10 + 100 and clock.pauses == [90]
    assert clock.elapsed == [0, 5000, 5010, 5010, 5110]


def test_a_clock_set_back_and_records_without_one():
    clock = measure([training(1, 100), training(2, 50), {"step": 3, "loss": 1.0}, training(4, 80)])
    assert clock.seconds == 30 and clock.elapsed == [0, 0, None, 30]
    assert measure([]).seconds == 0


def test_several_runs_are_compared_and_drawn_together(tmp_path, prepared_dir, undrawn):
    first = make_run(tmp_path / "a" / "run", data_dir=str(prepared_dir), learning_rate=1e-3)
    second = make_run(
        tmp_path / "b" / "run", [evaluation(0, 0, 6.0), evaluation(40, 9, 2.0)], data_dir=str(prepared_dir)
    )
    out = tmp_path / "both"
    report.main([str(first), str(second), f"--out={out}"])
    page = (out / "report.md").read_text(encoding="utf-8")
    assert row(page, r"**best validation, bits per byte**") == ["1.6000", "1.0000"]
    assert row(page, "**learning_rate**") == ["0.001", "0.0006", "0.0006"]
    assert row(page, "")[0] == literal(str(first))  # two runs of one name go by their paths
    assert not (first / "report.md").exists() and "different texts" not in page
    axis = Figure().subplots()
    curves.bits(axis, curves.Drawing([read_history(first), read_history(second)], {}))
    assert axis.get_legend_handles_labels()[1] == [f"{first}, best 1.600", f"{second}, best 1.000"]


def test_runs_with_longer_epochs_get_an_axis_of_their_own(tmp_path):
    runs = [make_run(tmp_path / "short"), make_run(tmp_path / "long", [training(10, 1), training(20, 2, epoch=0.2)])]
    report.main([*map(str, runs), f"--out={tmp_path}"])
    assert size(tmp_path / "loss_by_epoch.png")
    assert "different texts" in (tmp_path / "report.md").read_text(encoding="utf-8")  # which nobody can check here


@pytest.mark.parametrize(
    "records",
    [
        [training(1, 0), training(2, 1)],
        [evaluation(0, 0)],
        [training(1, 0, loss=float("nan"), grad_norm=float("inf")), evaluation(1, 1, 4.0)],
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5, "novel": {"key": 1}}, {"note": "no step"}],
    ],
    ids=["no evaluation", "no training", "not a number", "few keys and new ones"],
)
def test_what_is_missing_is_said(tmp_path, records):
    run = make_run(tmp_path / "run", records, corpus="nowhere/corpus.jsonl", data_dir="nowhere")
    report.main([str(run)])
    page = (run / "report.md").read_text(encoding="utf-8")
    assert "not recorded" in page and "manifest.json is not here" in page and "nan" not in page.lower()
    assert all(size(run / name) for name in curves.FIGURES)


def test_the_curves_that_training_ends_with(tmp_path):
    run = make_run(tmp_path / "run", data_dir="nowhere")
    assert report.draw(run, {"xz -9": 2.0}) == run / "curves.png" and size(run / "curves.png")[0] > 2000


def test_a_torn_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "val_loss": 1.')
    assert read_history(run).best["step"] == 20


def test_what_a_run_notes_itself_is_taken_over(tmp_path, undrawn):
    skipped = {"step": 7, "skipped": "spike", "batch_loss": 9.0, "documents": ["d1"], "time": 3}
    records = [training(5, 1), skipped, {"step": 9, "lr": 1e-3, "time": 4}, evaluation(10, 5) | {"gap": 0.25}]
    run = make_run(tmp_path / "run", records, batch_size="auto")
    report.main([str(run)])
    page = (run / "report.md").read_text(encoding="utf-8")
    assert row(page, "validation minus training loss there") == ["+0.2500"]
    assert row(page, "sick steps left out") == ["1"] and "left out: 7 (spike)." in page


def test_data_made_anew_is_not_the_run_s_data(tmp_path, prepared_dir):
    run = make_run(tmp_path / "run", data_dir=str(prepared_dir))
    state = run / "checkpoints" / "step-00000030" / "state.json"
    state.parent.mkdir(parents=True)
    (run / "checkpoints" / "pointers.json").write_text('{"last": "step-00000030"}', encoding="utf-8")
    for data, known in ((sha256(prepared_dir / "manifest.json"), True), ("0" * 64, False)):
        state.write_text(json.dumps({"identity": {"data": data}, "versions": {"torch": "9.9"}}), encoding="utf-8")
        history = read_history(run)
        assert bool(history.baselines) is known and ("made anew" in history.no_manifest) is not known
    assert history.machine == {"torch": "9.9"}


def test_samples_stand_side_by_side_as_they_were_written(tmp_path, undrawn):
    texts = {10: "α | *β*\nγ", 1000: "<b>ο φάρος</b>", 5000: "τέλος"}
    run = make_run(tmp_path / "run", samples=[{"step": s, "prompt": "Η απεργία", "text": t} for s, t in texts.items()])
    report.main([str(run)])
    page = (run / "report.md").read_text(encoding="utf-8")
    assert row(page, "prompt") == ["step 10", "step 1,000", "step 5,000"]
    assert row(page, "Η απεργία") == [r"α \| \*β\*<br>γ", r"\<b\>ο φάρος\</b\>", "τέλος"]


@given(st.text())
def test_no_text_breaks_a_table(text):
    cell = literal(text)
    assert "\n" not in cell and not re.search(r"(?<!\\)(\\\\)*\|", cell)


def test_long_samples_are_cut_at_a_blank():
    assert shortened("ο φάρος της Πούντας", 10) == "ο φάρος …" and shortened("ο φάρος", 10) == "ο φάρος"
    assert shortened("αβγδεζηθικ", 4) == "αβγδ …"


def test_samples_are_spread_with_both_ends():
    assert report.spread(list(range(21)), 5) == [0, 5, 10, 15, 20] and report.spread([1, 2], 5) == [1, 2]


def test_the_data_card_of_the_cleaning_is_quoted(tmp_path, prepared_dir, undrawn):
    card = {
        "name": "Φωνή", "source": "https://example.org", "licence": "CC BY 4.0", "language": "el",
        "read": {"documents": 200}, "kept": {"documents": 150, "first_date": "2008-01-02", "last_date": "2024-12-31"},
        "rules": [{"name": "too short", "documents_dropped": 50, "documents_changed": 3}, {"name": "idle"}],
    }  # fmt: skip
    (tmp_path / "datacard.json").write_text(json.dumps(card), encoding="utf-8")
    manifest = json.loads((prepared_dir / "manifest.json").read_text(encoding="utf-8"))
    manifest["fingerprint"]["corpus"] = str(tmp_path / "corpus.jsonl")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    run = make_run(tmp_path / "run", data_dir=str(tmp_path))
    report.main([str(run)])
    page, model = ((run / name).read_text(encoding="utf-8") for name in ("report.md", "MODEL_CARD.md"))
    assert row(page, "too short") == ["50", "3"] and "idle" not in page and "150 of 200 documents (75.0%)" in page
    assert model.startswith('---\nlanguage: "el"\nlicense: unknown') and "nothing after 2024-12-31" in model


def test_the_model_card_says_what_the_run_was(tmp_path, prepared_dir, undrawn):
    machine = {"step": 0, "machine": {"device": "NVIDIA H200", "torch": "2.13.0"}, "time": 900}
    records = [machine, training(10, 1000), evaluation(10, 1010)]
    run = make_run(tmp_path / "run", records, data_dir=str(prepared_dir))
    report.main([str(run), "--language=el", "--license=cc-by-4.0"])
    text = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    front = dict(line.split(": ", 1) for line in text.split("---\n")[1].splitlines())
    assert front["language"] == '"el"' and front["license"] == '"cc-by-4.0"'
    assert front["pipeline_tag"] == "text-generation" and front["library_name"]
    titles = ["Intended use", "Limits", "What it was trained on", "How it was trained", "Evaluation"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == titles
    assert row(text, "this model, step 10") == ["1.7500", "3.5000", "33.12"] and row(text, "xz -9")[0]
    assert "10 steps of 64 tokens" in text and "1 min 50 s on device NVIDIA H200, torch 2.13.0" in text


def test_a_model_card_that_a_person_edited_stays(tmp_path, undrawn):
    run = make_run(tmp_path / "run")
    report.main([str(run)])
    card, beside = run / modelcard.CARD, run / modelcard.NEW_CARD
    report.main([str(run), "--license=mit"])  # untouched, so written anew
    assert 'license: "mit"' in card.read_text(encoding="utf-8") and not beside.exists()
    mine = card.read_text(encoding="utf-8").replace('"mit"', '"cc0-1.0"')
    card.write_text(mine, encoding="utf-8")
    report.main([str(run)])
    assert card.read_text(encoding="utf-8") == mine and "license: unknown" in beside.read_text(encoding="utf-8")
    beside.write_text("mine as well", encoding="utf-8")
    with pytest.raises(UserError, match="both been edited"):
        report.main([str(run)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: out/<run>; usage: python -m oracle.report"),
        (["--prise=1", "x"], "unrecognized arguments: --prise=1"),
        (["x", "--price_per_hour=cheap"], "invalid float value: 'cheap'"),
        (["x", "--price_per_hour=-1"], "--price_per_hour=-1.0: must be a number, 0 or more"),
        (["x", "--price_per_hour=nan"], "must be a number"),
        (["x", "./x"], "given twice"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_2(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report", *arguments])
    assert cli.run(report.main) == UsageError.exit_code == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_no_run_and_no_metrics_are_refused(tmp_path, monkeypatch, capsys):
    empty = make_run(tmp_path / "empty", [{"note": "begun"}, evaluation(0, 0, math.nan)])
    for folder, words in ((tmp_path / "absent", "no config.json"), (empty, "no metrics recorded yet; train first")):
        monkeypatch.setattr("sys.argv", ["report", str(folder)])
        assert cli.run(report.main) == 1 and words in capsys.readouterr().err


def test_colours_differ_in_greyscale(tmp_path):
    for count in range(2, 7):
        runs = [read_history(make_run(tmp_path / f"{count}" / f"run{i}")) for i in range(count)]
        drawing = curves.Drawing(runs, {})
        grey = [np.dot(drawing.colour(i)[:3], (0.299, 0.587, 0.114)) for i in range(count)]
        assert min(np.diff(grey)) > 0.08
        assert (
            len({(str(drawing.points(i)["marker"]), str(drawing.line(i)["linestyle"])) for i in range(count)}) == count
        )


def test_a_spike_does_not_move_the_smoothed_curve():
    values = np.ones(400)
    values[200] = 1000.0
    assert (curves.smoothed(values) == 1).all() and len(curves.smoothed(np.array([]))) == 0
    assert curves.smoothed(np.array([3.0, 1.0, 2.0])).tolist() == [3, 1, 2]  # too few to smooth


def test_the_axis_shows_what_follows_the_plunge(tmp_path):
    """The start leaves the axis and is named; a baseline far off is named too."""
    records = [evaluation(s, s, 3 + 1 / (1 + s / 100) + 8 * math.exp(-s / 2)) for s in range(0, 1001, 10)]
    axis = Figure().subplots()
    curves.bits(axis, curves.Drawing([read_history(make_run(tmp_path / "run", records))], {"far": 9.0, "near": 1.4}))
    bottom, top = axis.get_ylim()
    assert bottom < 1.4 < 1.8 < top < 2 and axis.get_title().endswith("from 6.00")
    assert axis.get_legend_handles_labels()[1][1:] == ["far 9.000, above", "near 1.400"]
