"""A GGUF through llama.cpp answers as the checkpoint does. Needs llama-cpp-python and gguf, and is skipped without."""

import pytest
import torch

import export
from oracle.chat import Template
from oracle.cli import UsageError, UserError
from oracle.engine import Span
from oracle.generate import open_engine
from oracle.llama import open_gguf
from oracle.sampling import SamplingParams
from serve import main
from tests.serving import chat, serving
from tests.test_export import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    run = make_run(tmp_path_factory.mktemp("out") / "demo-chat", prepared.tokenizer_path, prepared.folder, chat=True)
    export.main([str(run), "--format=gguf", "--gguf_type=f32", "--verify=False"])
    return run


def test_ragged_batches_have_the_checkpoints_logits(run):
    ours, theirs = open_engine(run, slots=3).network, open_gguf(str(run), "", slots=3, threads=1).network
    ids = torch.randint(4, 350, (40,), generator=torch.Generator().manual_seed(1))
    steps = [
        [Span(0, 0, 9), Span(2, 0, 1)],
        [Span(0, 9, 1), Span(1, 0, 20), Span(2, 1, 7)],
        [Span(0, 4, 3), Span(2, 8, 1), Span(1, 20, 1)],  # slot 0 goes back
    ]
    for spans in steps:
        tokens = ids[: sum(s.count for s in spans)]
        for every in (False, True):
            a, b = (network.forward(tokens, spans, every) for network in (ours, theirs))
            torch.testing.assert_close(a[:, : b.shape[1]], b, rtol=0.02, atol=0.02)
    for network in (ours, theirs):
        network.copy(1, 2, 15)
    a, b = (network.forward(ids[:1], [Span(2, 15, 1)]) for network in (ours, theirs))
    torch.testing.assert_close(a[:, : b.shape[1]], b, rtol=0.02, atol=0.02)


def test_greedy_answers_are_the_same_together_or_alone(run):
    ours, theirs = open_engine(run, slots=1), open_gguf(str(run), "", slots=3, threads=1)
    assert isinstance(theirs.template, Template) and theirs.block_size == ours.block_size
    prompts = [ours.template.prompt([{"role": "user", "content": text}]) for text in ("Γεια", "το λιμάνι", "ο", "η")]
    params = SamplingParams(max_new_tokens=30, temperature=0)
    assert [g.tokens for g in ours.complete(prompts, params)] == [g.tokens for g in theirs.complete(prompts, params)]


def test_the_server_gives_the_same_answer_with_either(run):
    texts = []
    for engine in (open_engine(run, slots=2), open_gguf(str(run), "", slots=2, threads=1)):
        with serving(engine) as running:
            texts.append(chat(running, "Τι είπε ο δήμαρχος;")[1]["choices"][0]["message"]["content"])
    assert texts[0] == texts[1] and texts[0]


def test_files_that_are_missing_damaged_or_strangers(run, tmp_path, capsys):
    with pytest.raises(UsageError, match="no such file"):
        open_gguf(str(run), "nothing.gguf", 1)
    with pytest.raises(UsageError, match=r"no \.gguf file in it"):
        open_gguf(str(tmp_path), "", 1)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(next(run.rglob("*.gguf")).read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot load it"):
        open_gguf(str(run), str(broken), 1)
    main([str(run), "--engine=llama", "--dry_run"])
    assert "demo-chat-f32 (a model that answers" in capsys.readouterr().out
