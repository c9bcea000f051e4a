"""evaluate.py: scores that equal trying every window by hand, one page for any run, and every wrong call answered."""

import json
import math
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate
import train
from model import GPT, GPTConfig
from oracle.checkpoint import CHAT_TEMPLATE, STATE, Checkpoint, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.engine import cached
from oracle.evaluate import Encoded, Validation, figures, some_of
from oracle.files import sha256
from oracle.generate import Engine, open_engine
from oracle.logbook import read
from oracle.quiz import contains
from oracle.repetition import ends_in_a_loop, repetition
from oracle.scoring import Scorer
from oracle.subject import Subject
from oracle.tokenizer import BOS, EOS
from oracle.writing import recited
from tests.conftest import TINY

CPU = torch.device("cpu")
FAST = ("--eval_samples=3", "--max_new_tokens=20", "--device=cpu")


@pytest.fixture(scope="module")
def run(prepared_dir, tmp_path_factory):
    """A tiny trained run, 12 steps, with the checkpoints of steps 6 and 12."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={path}", *TINY, "--keep_interval=6"])
    return path


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """What evaluate.py writes of two checkpoints and a text."""
    folder = tmp_path_factory.mktemp("page")
    text = folder / "text.txt"
    text.write_text("Ο δήμαρχος είπε χθες στο λιμάνι.\nΤο νερό και το μέλι.", encoding="utf-8")
    early = run / "checkpoints" / "step-00000006"
    evaluate.main([str(run), str(early), f"--text={text}", f"--out={folder / 'new'}", *FAST, "--stride=16"])
    return json.loads((folder / "new" / "evaluation.json").read_text(encoding="utf-8")), folder / "new"


def network(block_size: int = 8, vocab_size: int = 50, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(block_size=block_size, vocab_size=vocab_size, n_layer=2, n_head=2, n_embd=16)).eval()


def documents(lengths: list[int]) -> Encoded:
    rng = np.random.default_rng(1)
    made = [np.array([BOS, *rng.integers(4, 50, n), EOS], dtype="<u2") for n in lengths]
    return Encoded(np.concatenate(made), np.array([n + 2 for n in lengths]), bytes=7 * sum(lengths))


@torch.no_grad()
def by_hand(model: GPT, tokens: list[int], stride: int) -> float:
    """Nats of all tokens but beginnings, each after the window that it is first the target of."""
    nats, scored, block = 0.0, 0, model.config.block_size
    for start in range(0, len(tokens), stride):
        window = tokens[start : start + block + 1]
        if len(window) < 2:
            break
        logits = torch.log_softmax(model(torch.tensor([window[:-1]]))[0], dim=-1)
        for place in range(max(0, scored - start), len(window) - 1):
            scored = start + place + 1
            if window[place + 1] != BOS:
                nats -= float(logits[place, window[place + 1]])
    assert scored == len(tokens) - 1
    return nats


@pytest.mark.parametrize("lengths", [[30, 5, 1, 17], [8], [7], [6], [0, 1], [40]])
@pytest.mark.parametrize("stride", [1, 3, 4, 7, 8])
def test_strided_windows_equal_every_window_by_hand(lengths, stride):
    model, text = network(), documents(lengths)
    validation = Validation(text, 8, 3, CPU, stride=stride)
    nats = by_hand(model, text.tokens.tolist(), stride)
    found = validation(model, nullcontext)
    assert validation.n_targets == len(text.tokens) - len(lengths)  # every token but the beginnings
    assert found["val_loss"] == pytest.approx(nats / validation.n_targets, rel=1e-5)
    assert found["val_bpb"] == pytest.approx(nats / math.log(2) / max(1, text.bytes), rel=1e-5)


def test_the_engine_scores_as_the_model_does(tokenizer):
    model, text = network(vocab_size=tokenizer.vocab_size), documents([30, 5, 1, 17])
    for slots in (1, 3):
        scorer = Scorer(Engine(cached(model, slots), tokenizer))
        for stride in (3, 8):
            validation = Validation(text, 8, 2, CPU, stride=stride)
            assert validation(scorer, nullcontext) == pytest.approx(validation(model, nullcontext), rel=1e-5)
        texts = [[BOS, 5, 6, 7], [BOS, 9], [BOS, 8, 7, 6, 5, 4, 9, 10, 11], [BOS, 5, 6]]
        wanted = [by_hand(model, ids, 8) for ids in texts]
        assert scorer.nats(texts) == pytest.approx(wanted, rel=1e-5)


def test_a_stride_of_the_context_is_training_s_own_figure(run, prepared, measured):
    result = measured[0]["runs"][0]
    recorded = next(r for r in read(run / "metrics.jsonl") if r.get("step") == 12 and "val_bpb" in r)
    for name in ("loss", "bpb", "perplexity"):
        assert result["texts"]["validation"][name] == pytest.approx(recorded[f"val_{name}"], rel=1e-6)
    assert result["texts"]["validation"]["bytes"] == prepared.val.bytes


def test_what_is_measured_of_a_text_and_of_two_checkpoints(measured, tokenizer):
    (last, early), folder = measured[0]["runs"], measured[1]
    (name,) = set(last["texts"]) - {"validation"}
    text = "Ο δήμαρχος είπε χθες στο λιμάνι.\nΤο νερό και το μέλι."
    assert last["texts"][name]["bytes"] == len(text.encode())
    assert last["texts"][name]["tokens"] == len(tokenizer.encode(text)) + 1  # its end
    assert (last["step"], early["step"]) == (12, 6) and last["run"] != early["run"]
    assert last["texts"]["validation"]["bpb"] < early["texts"]["validation"]["bpb"]
    assert last["speed"]["tokens_per_second"] > 0 and len(last["writing"]["samples"]) == 3
    page = (folder / "evaluation.md").read_text(encoding="utf-8")
    assert f"{last['texts'][name]['bpb']:.4f}" in page and "| 12 | 6 |" in page


def test_verbatim_copies_are_looked_for_in_the_training_text(measured, prepared, tokenizer, run):
    longest = measured[0]["runs"][0]["writing"]["copies"]["unseen"]  # real text of few words: it has some
    assert longest["longest_tokens"] >= 8
    train_texts = [tokenizer.decode(prepared.train.document(n).tolist()) for n in range(len(prepared.train))]
    assert longest["longest_text"] in train_texts[prepared.train.ids(range(99)).index(longest["document"])]


def test_what_a_model_recites(prepared, tokenizer):
    """A network that knows one document by heart says it from its beginning, and of another nothing."""
    by_heart = prepared.train.document(0).tolist()

    class Parrot:
        config, slots, bytes_per_token = GPTConfig(block_size=64), 2, 0

        def forward(self, tokens, spans, every=False):
            logits = torch.zeros(len(spans), tokenizer.vocab_size)
            for row, span in enumerate(spans):
                logits[row, by_heart[min(span.start + span.count, len(by_heart) - 2)]] = 1
            return logits

    engine = Engine(Parrot(), tokenizer)
    knows = recited(engine, prepared.train, 1)
    assert knows == {"texts": 1, "wanted_tokens": 32, "mean_tokens": 32, "whole": 1}
    all_of_them = recited(engine, prepared.train, 10)
    assert 32 / all_of_them["texts"] <= all_of_them["mean_tokens"] < 32 and all_of_them["texts"] == 10
    assert all_of_them["whole"] == 0.1


def test_some_of_a_split_is_whole_documents_and_their_bytes(prepared, tokenizer):
    part = some_of(prepared.val, 200, tokenizer)
    assert 200 <= part.lengths.sum() == len(part.all_tokens()) < prepared.val.tokens
    texts = tokenizer.decode(part.all_tokens().tolist())
    assert part.bytes == len(texts.encode()) and (part.all_tokens() == BOS).sum() == len(part.lengths)
    assert some_of(prepared.val, 0, tokenizer) is prepared.val


def test_figures_of_an_absurd_loss_stay_finite():
    assert math.isfinite(figures(1e6, 10, 10)["perplexity"])
    assert figures(math.log(2) * 8, 4, 2)["bpb"] == pytest.approx(4)


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("α β γ α β γ α β γ", True),
        ("αρχή και μετά ναι ναι ναι ναι ναι ναι", True),
        ("πολύ πολύ πολύ", False),  # emphasis
        ("α β γ α β γ α β δ", False),
        ("α α α α α α τέλος", False),
        ("", False),
    ],
)
def test_loops(text, loop):
    assert ends_in_a_loop(text.split()) is loop


def test_repetition():
    measured = repetition(["α β α β α β α β", "γ δ ε"])
    assert measured.distinct_2 == pytest.approx(4 / 9)  # αβ βα γδ δε
    assert measured.repeated_4grams == pytest.approx((1 - 2 / 5) / 2)
    assert measured.loops == 0.5
    assert repetition([""]).distinct_2 == 1


def test_a_run_whose_data_is_gone_is_measured_on_what_is_left(copy, tmp_path, run, prepared_dir):
    rewrite(copy, lambda folder: edit_json(folder / "config.json", data_dir=str(tmp_path / "gone")))
    evaluate.main([str(copy), *FAST, "--language=el"])
    result = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))["runs"][0]
    assert not result["texts"] and not result["writing"]["copies"]
    assert "gone" in result["notes"][0] and "copies" in (copy / "evaluation.md").read_text(encoding="utf-8")
    moved = Subject.open(str(copy), "best", str(prepared_dir))
    assert moved.data and set(moved.splits) == {"validation"}


def test_data_made_anew_is_not_what_the_run_was_trained_on(copy, run):
    rewrite(copy, lambda folder: edit_json(folder / STATE, identity={"data": "0", "tokenizer": "0"}))
    subject = Subject.open(str(copy), "best")
    assert subject.data is None and "is not what this run was trained on" in subject.no_data
    elsewhere = Subject.open(str(copy), "best", subject.settings.data_dir)
    assert elsewhere.data is None and "another tokenizer" in elsewhere.no_data


def test_ruined_weights_are_one_sentence(copy):
    def ruin(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors["wte.weight"][5] = torch.nan
        save_file(tensors, folder / "model.safetensors")

    rewrite(copy, ruin)
    with pytest.raises(UserError, match="copy: the model's logits are not numbers"):
        evaluate.main([str(copy), *FAST])


def test_probes_longer_than_the_context_are_counted(run, tmp_path):
    probes = tmp_path / "p.jsonl"
    rows = [{"kind": "k", "good": "το νερό", "bad": "το νερα"}, {"kind": "k", "good": "α " * 40, "bad": "β " * 40}]
    probes.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    evaluate.main([str(run), f"--probes={probes}", f"--out={tmp_path}", "--eval_samples=0", "--device=cpu"])
    result = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["runs"][0]
    assert result["probes"][0]["probes"] == 1 and any("1 probes are longer" in note for note in result["notes"])
    assert "writing" not in result


def test_a_taught_model_is_asked(copy, tmp_path):
    (RunDirectory(copy).find("best") / CHAT_TEMPLATE).write_text("{{ bos_token }}")
    questions = tmp_path / "q.jsonl"
    row = {"question": "Ποιος;", "paraphrases": ["Μα ποιος είναι αυτός που μίλησε χθες στο λιμάνι;"], "fact": "ο"}
    questions.write_text(json.dumps(row), encoding="utf-8")
    argv = [str(copy), f"--questions={questions}", "--eval_samples=0", "--device=cpu", "--max_new_tokens=20"]
    evaluate.main(argv)
    result = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))["runs"][0]["questions"]
    said = result["transcript"]
    assert [(a["paraphrase"], a["right"]) for a in said] == [
        (n, contains(a["answer"], "ο")) for n, a in enumerate(said)
    ]
    assert result["accuracy"] == sum(a["right"] for a in said) / 2
    page = (copy / "evaluation.md").read_text(encoding="utf-8")
    assert f"to their paraphrases | {result['on_paraphrases']:.1%}" in page
    before = page
    evaluate.main(argv)  # the likeliest words are the same every time; only the speed is not
    after = (copy / "evaluation.md").read_text(encoding="utf-8")
    assert after.partition("## Speed")[0] == before.partition("## Speed")[0]


def test_a_base_model_is_asked_nothing(run, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "Ποιος;", "fact": "ο δήμαρχος"}', encoding="utf-8")
    evaluate.main([str(run), f"--questions={questions}", f"--out={tmp_path}", "--eval_samples=0", "--device=cpu"])
    result = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["runs"][0]
    assert "questions" not in result and any("not taught to answer" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("argv", "kind", "message"),
    [
        ([], UsageError, "no run given"),
        (["none"], UserError, "does not exist"),
        (["RUN", "RUN/../tiny"], UsageError, "given twice"),
        (["RUN", "--stride=17"], UserError, "--stride=17: more than the context of tiny, 16 tokens"),
        (["RUN", "--text=none"], UserError, "no such corpus"),
        (["RUN", "--text=EMPTY"], UserError, "no text in it"),
        (["RUN", "--text=SHORT"], UserError, "fewer than 2 tokens"),
        (["RUN", "--language=xx"], UsageError, "language 'xx' is not known"),
        (["RUN", "--language=sr"], UsageError, "'sr' has no probes"),
        (["RUN", "--probes=none"], UserError, "no such file of probes"),
        (["RUN", "--questions=none"], UserError, "no such question file"),
        (["RUN", "--dtype=int7"], UsageError, "must be one of"),
        (["RUN", "--num_samples=3"], UsageError, "without effect in evaluate.py"),
    ],
)
def test_a_wrong_call_is_one_sentence_before_anything_is_measured(argv, kind, message, run, tmp_path, monkeypatch):
    (tmp_path / "empty.txt").write_text(" \n ")
    (tmp_path / "short.txt").write_text("ο", encoding="utf-8")
    monkeypatch.setattr(evaluate, "evaluate", pytest.fail)
    named = {"RUN": str(run), "EMPTY": str(tmp_path / "empty.txt"), "SHORT": str(tmp_path / "short.txt")}
    for name, path in named.items():
        argv = [argument.replace(name, path) for argument in argv]
    with pytest.raises(kind, match=message):
        evaluate.main(argv)


def test_texts_are_named_one_by_one_or_as_a_list(tmp_path):
    from oracle.config import load

    one = load("evaluate.py", ["--text=a.txt", "--text=b.txt"]).config.text
    assert one == load("evaluate.py", ["--text='a.txt','b.txt'"]).config.text == ("a.txt", "b.txt")


def rewrite(run, change) -> None:
    """Change the files of the best checkpoint and make its hashes right again."""
    folder = RunDirectory(run).find("best")
    change(folder)
    state = json.loads((folder / STATE).read_text())
    state["files"] = {name: sha256(folder / name) for name in state["files"]}
    (folder / STATE).write_text(json.dumps(state))
    Checkpoint.open(folder)


def edit_json(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_the_format_that_writes_is_the_one_measured(run):
    """Whatever format the engine writes in, its own network is what is scored."""
    engine = open_engine(run, dtype="bfloat16")
    text = Encoded.of(["Ο δήμαρχος είπε χθες στο λιμάνι."], engine.tokenizer)
    found = Validation(text, 16, 2, CPU)(Scorer(engine), nullcontext)["val_bpb"]
    exact = Validation(text, 16, 2, CPU)(Scorer(open_engine(run)), nullcontext)["val_bpb"]
    assert found != exact and found == pytest.approx(exact, rel=0.02)
