"""GPT-2 models from elsewhere become run directories: the same logits, the same ids, refusals by name."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

import prepare
import sample
import train
from model import GPT, count_parameters
from oracle import hf
from oracle.byte_level import ByteLevelTokenizer, byte_alphabet, from_folder
from oracle.chat import Template
from oracle.cli import UserError
from oracle.config import from_dict
from oracle.generate import open_engine, prompt_ids
from oracle.hf import PUBLISHED, Source, as_run, shape_of, translate, with_rows
from oracle.plan import model_shape
from oracle.pretrained import Pretrained
from oracle.shards import Prepared
from oracle.tokenizer import CHAT_TOKENS
from tests.conftest import TINY, make_text

LINES = [make_text(n, 12) for n in range(20)] + [
    "",
    " ",
    "\n\n  x",
    "😀 č <|endoftext|> <|user|>",
    "don't 123  \t",
    "\u2581",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2 as transformers saves it, with a byte-level tokenizer learnt from Greek."""
    from tokenizers import ByteLevelBPETokenizer

    path = tmp_path_factory.mktemp("hf") / "tiny-gpt2"
    path.mkdir()
    learner = ByteLevelBPETokenizer()
    texts = (make_text(n) for n in range(50))
    learner.train_from_iterator(texts, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    learner.save_model(str(path))
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_positions=32, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():  # transformers begins with biases of 0 and gains of 1, which would hide a mix-up
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(run: str) -> GPT:
    source = Pretrained(run)
    model = GPT(model_shape(from_dict(source.settings(), run), source.open_tokenizer().vocab_size)).eval()
    source.load(model)
    return model


def test_logits_and_ids_are_those_of_transformers(folder, here):
    run = as_run(str(folder))
    theirs, ours = GPT2LMHeadModel.from_pretrained(folder).eval(), model_of(run)
    idx = torch.randint(0, 400, (3, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(idx)[..., :400], theirs(idx).logits, atol=1e-4, rtol=1e-4)
    tokenizer, reference = Pretrained(run).open_tokenizer(), GPT2TokenizerFast.from_pretrained(folder)
    for line in LINES:
        assert tokenizer.encode(line) == reference(line, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(line)) == line
        assert not set(tokenizer.encode(line)) & set(tokenizer.control)
    assert tokenizer.bos == tokenizer.eos == 0
    first, second = tokenizer.encode_documents(LINES[:2])
    assert first.tolist() == [0, *tokenizer.encode(LINES[0]), 0] and len(second) > 2


def test_the_chat_tokens_get_the_mean_row(folder, here):
    run = as_run(str(folder))
    tokenizer, model = Pretrained(run).open_tokenizer(), model_of(run)
    assert [tokenizer.chat_id(name) for name in CHAT_TOKENS] == [400, 401, 402, 403] and tokenizer.vocab_size == 404
    assert len(model.wte.weight) == 512
    torch.testing.assert_close(model.wte.weight[400:], model.wte.weight[:400].mean(0).expand(112, -1))
    ids = Template(tokenizer).prompt([{"role": "user", "content": "<|assistant|>"}])
    assert ids.count(401) == 1


def test_an_import_is_made_once_and_never_over_something_else(folder, here, capsys):
    assert as_run(str(folder)) == as_run(str(folder)) == "out/tiny-gpt2"
    assert capsys.readouterr().out.count("imported") == 1 and not list((here / "out").glob("*.tmp"))
    hf.main([str(folder), "--out_dir=out/other"])
    assert "python sample.py out/other" in capsys.readouterr().out
    (here / "out/mine").mkdir()
    with pytest.raises(UserError, match="out/mine: is there already and is not"):
        as_run(str(folder), "out/mine")


def test_sampling_and_training_go_on_from_it(folder, here, prepared_dir, capsys):
    sample.main([f"--init_from={folder}", "--start=Το λιμάνι", "--num_samples=1", "--max_new_tokens=4", "--device=cpu"])
    assert "Το λιμάνι" in capsys.readouterr().out
    engine = open_engine(as_run(str(folder)))
    prompt = prompt_ids(engine.tokenizer, "Το")
    assert prompt[0] == 0 and len(engine.complete([prompt], sample.SamplingParams(max_new_tokens=3))[0].tokens) <= 3
    with pytest.raises(UserError, match="its tokenizer is not that of"):
        train.main([f"--init_from={folder}", f"--data_dir={prepared_dir}", "--out_dir=out/mine", *TINY[4:]])
    with pytest.raises(UserError, match=r"n_layer=3: .* was trained with n_layer=2"):
        train.main([f"--init_from={folder}", "--n_layer=3", "--max_iters=1"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_shape(name):
    layers, heads, width = PUBLISHED[name]
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width))
        tensors = translate(model.transformer.state_dict(), name)
        with_rows(tensors, 50257 + len(CHAT_TOKENS))
        shape = shape_of(tensors)
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.block_size, shape.vocab_size) == (
        layers, heads, width, 1024, 50304,
    )  # fmt: skip
    assert count_parameters(shape) == sum(p.numel() for p in model.parameters()) + 47 * width


@pytest.mark.parametrize("change", ["bare", "prefixed", "compiled", "buffers", "tied head", "linear"])
def test_layouts(folder, change):
    theirs = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): t for name, t in theirs.items()}
    wanted = translate(theirs, "x")
    given = {
        "bare": bare,
        "prefixed": {f"transformer.{n}": t for n, t in bare.items()},
        "compiled": {f"_orig_mod.transformer.{n}": t for n, t in bare.items()},
        "buffers": {**bare, "h.0.attn.bias": torch.ones(1), "h.1.attn.masked_bias": torch.ones(1)},
        "tied head": {**bare, "lm_head.weight": bare["wte.weight"].clone()},
        "linear": wanted,
    }[change]
    found = translate(given, "x")
    assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert shape_of(found, 4).bias


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "this folder holds LlamaForCausalLM"),
        ({"activation_function": "relu"}, 'activation_function="relu"'),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true"),
        ({"n_inner": 100}, "100 wide"),
    ],
)
def test_another_network_is_refused_by_name(folder, tmp_path, config, message):
    other = tmp_path / "other"
    other.mkdir()
    known = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(known | config))
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=message):
        as_run(str(other))


def test_what_is_no_gpt2_is_refused(folder, tmp_path, here):
    tensors = load_file(folder / "model.safetensors")
    with pytest.raises(UserError, match="untied"):
        translate({**tensors, "lm_head.weight": torch.zeros_like(tensors["transformer.wte.weight"])}, "x")
    with pytest.raises(UserError, match="holds no GPT-2"):
        translate({"layers.0.q": torch.zeros(1)}, "x")
    lacking = translate(tensors, "x")
    del lacking["h.1.mlp.c_fc.bias"]
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc\.bias is absent"):
        shape_of(lacking, 4)
    alone = tmp_path / "alone.safetensors"
    save_file(tensors, alone)
    with pytest.raises(UserError, match="no tokenizer there"):
        as_run(str(alone))
    alone.write_bytes(alone.read_bytes()[:5000])
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(UserError, match="no whole safetensors file"):
        as_run(str(alone))
    assert not (here / "out").exists() or not list((here / "out").iterdir())


def test_names_are_found_on_the_hub(folder, here, monkeypatch):
    asked = []
    hub = SimpleNamespace(snapshot_download=lambda name, allow_patterns: asked.append(name) or str(folder))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert (
        as_run("gpt2") == "out/gpt2"
        and as_run("hf:someone/greek") == "out/greek"
        and asked == ["gpt2", "someone/greek"]
    )

    def offline(name, allow_patterns):
        raise OSError("no connection")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="gpt2-xl: cannot be fetched"):
        Source.find("gpt2-xl")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs the package huggingface_hub"):
        Source.find("gpt2-xl")


def test_other_tokenizers_are_refused(folder, tmp_path):
    assert sorted(byte_alphabet().values()) == list(range(256))
    file = json.loads(from_folder(folder))

    def refused(message, **changed):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(file | changed))
        with pytest.raises(UserError, match=message):
            ByteLevelTokenizer(path)

    refused("not byte-level BPE", pre_tokenizer={"type": "Whitespace"})
    refused("changes a text", normalizer={"type": "NFC"})
    refused("no end-of-text token", added_tokens=[t for t in file["added_tokens"] if t["id"]])


def test_a_corpus_prepared_with_its_tokenizer_trains_it_further(folder, here, corpus, capsys):
    arguments = [f"--corpus={corpus}", f"--tokenizer={folder}", "--data_dir=data", "--val_fraction=0.2"]
    prepare.main(arguments)
    prepare.main(arguments)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"tokenizer '[0-9a-f]+' -> None"):
        prepare.main([*arguments[:1], *arguments[2:]])
    data = Prepared("data")
    assert data.tokenizer_path.name == "tokenizer.json" and data.manifest["tokenizer"]["type"] == "given"
    started = [
        f"--init_from={folder}", "--data_dir=data", "--out_dir=out/mine", "--batch_size=4", "--warmup_iters=0",
        "--learning_rate=1e-9", "--eval_interval=2", "--device=cpu", "--dtype=float32",
    ]  # fmt: skip
    train.main([*started, "--max_iters=2"])
    assert "n_embd=48" in capsys.readouterr().out
    trained, before = model_of("out/mine"), model_of("out/tiny-gpt2")
    torch.testing.assert_close(trained.wte.weight, before.wte.weight, atol=1e-6, rtol=0)
    train.main(["--init_from=resume", *started[1:], "--max_iters=4"])  # the sizes need not be given again
    assert "best validation loss" in capsys.readouterr().out
