"""What leaves is the same model: checked by its own program, refused where it is not, whole or not there at all."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

import export
from model import GPT
from oracle import export_check, export_gguf, export_hf
from oracle.chat import JINJA, Template
from oracle.checkpoint import CHAT_TEMPLATE, Progress, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.config import to_json
from oracle.export import EXPORT, Leaving
from oracle.files import sha256, write_text
from oracle.hf import as_run
from oracle.plan import model_shape
from oracle.pretrained import Pretrained
from oracle.settings import Config
from oracle.tokenizer import open_tokenizer, train_tokenizer
from tests.conftest import make_text


def make_run(path, tokenizer_file, data_dir="nowhere", bias=True, chat=False, width=32):
    """A run of random weights, large enough that logits differ."""
    config = Config(
        out_dir=str(path), data_dir=str(data_dir), n_layer=2, n_head=2, n_embd=width, block_size=64, bias=bias
    )
    tokenizer = open_tokenizer(tokenizer_file)
    torch.manual_seed(3)
    model = GPT(model_shape(config, tokenizer.vocab_size))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    files = {CHAT_TEMPLATE: JINJA} if chat else {}
    identity = {"data": "x", "tokenizer": tokenizer.sha256}
    RunDirectory(path).save(
        Progress(), model, torch.optim.AdamW(model.parameters()), config, tokenizer.path, identity, files=files
    )
    write_text(path / "config.json", to_json(config))
    return path


@pytest.fixture(autouse=True)
def few_lines(monkeypatch):
    monkeypatch.setattr(export_check, "OWN_LINES", 100)
    monkeypatch.setattr(export_check, "RANDOM_LINES", 200)


@pytest.fixture
def run(tmp_path, prepared):
    return make_run(tmp_path / "demo", prepared.tokenizer_path, prepared.folder)


def report(folder):
    return json.loads((folder / EXPORT).read_text())


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_reads_the_same_model(tmp_path, prepared, bias):
    run = make_run(tmp_path / "demo", prepared.tokenizer_path, prepared.folder, bias=bias)
    export.main([str(run)])
    folder = run / "export" / "hf"
    verified = report(folder)["verified"]
    assert verified["lines with the same ids"] == 266 and verified["same arg-max"] == 1
    assert verified["largest difference of logits"] < 1e-4 and verified["greedy texts equal"].startswith("8 of 8")
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 512 and (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (
        1,
        2,
        3,
    )
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2] and set(range(400, 512)) < set(generation["suppress_tokens"])
    assert all(sha256(folder / name) == found for name, found in report(folder)["files"].items())
    assert sha256(folder / "tokenizer.model") == sha256(prepared.tokenizer_path)
    assert "512 rows: the last 112 are padding" in (folder / "README.md").read_text()


def test_a_chat_model_takes_its_template_along(tmp_path, prepared):
    from transformers import AutoTokenizer

    run = make_run(tmp_path / "demo-chat", prepared.tokenizer_path, chat=True)
    export.main([str(run), "--format=all"])
    tokenizer = AutoTokenizer.from_pretrained(run / "export" / "hf")
    template = Template(Leaving.open(str(run), "best").tokenizer)
    messages = [
        {"role": "system", "content": "Απάντησε σύντομα."}, {"role": "user", "content": " Πού είναι ο φάρος;\n"},
        {"role": "assistant", "content": "Στο λιμάνι."}, {"role": "user", "content": "😀"},
    ]  # fmt: skip
    options = {"return_dict": True, "tokenizer_kwargs": {"split_special_tokens": False}}
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
    assert found["input_ids"] == template.prompt(messages)
    found = tokenizer.apply_chat_template(messages[:3], return_assistant_tokens_mask=True, **options)
    rendered = template.render(messages[:3])
    assert found["input_ids"] == rendered.ids and list(map(bool, found["assistant_masks"])) == rendered.mask
    generation = json.loads((run / "export" / "hf" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(template.stop_tokens)
    modelfile = (run / "export" / "gguf-f16" / "Modelfile").read_text()
    assert 'PARAMETER stop "<|end|>"' in modelfile and "{{ range .Messages }}<|{{ .Role }}|>" in modelfile
    fields = gguf_fields(next((run / "export" / "gguf-f16").glob("*.gguf")))
    assert "generation" not in fields["tokenizer.chat_template"].replace("add_generation_prompt", "")
    assert fields["tokenizer.ggml.eos_token_id"] == template.stop_tokens[0]


def gguf_fields(path):
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_a_gguf_file_holds_the_same_model(run, kind):
    export.main([str(run), "--format=gguf", f"--gguf_type={kind}"])
    folder = run / "export" / f"gguf-{kind}"
    verified = report(folder)["verified"]
    assert verified["tensors read back"] == 2 + 2 * 12 + 2 and ("with" in verified or "not checked" in verified)
    fields = gguf_fields(folder / f"demo-{kind}.gguf")
    assert fields["general.architecture"] == "gpt2" and fields["gpt2.context_length"] == 64
    tokenizer = Leaving.open(str(run), "best").tokenizer
    assert fields["tokenizer.ggml.tokens"] == [tokenizer.piece(i) for i in range(400)]
    assert [i for i, t in enumerate(fields["tokenizer.ggml.token_type"]) if t == 6] == tokenizer.byte_ids
    assert "num_ctx 64" in (folder / "Modelfile").read_text()


@pytest.mark.parametrize("bias", [True, False])
def test_llama_cpp_reads_the_same_model(tmp_path, prepared, bias):
    pytest.importorskip("llama_cpp")
    run = make_run(tmp_path / "demo", prepared.tokenizer_path, prepared.folder, bias=bias)
    export.main([str(run), "--format=gguf", "--gguf_type=f32"])
    assert report(run / "export" / "gguf-f32")["verified"]["with"] == "llama.cpp"


def test_a_model_that_came_out_otherwise_is_not_written(run, monkeypatch):
    right = Leaving.tensors
    wrong = {"h.1.mlp.c_fc.bias": torch.ones(128)}
    monkeypatch.setattr(Leaving, "tensors", lambda self: {**right(self), **wrong})
    with pytest.raises(UserError, match="is not the same in transformers: its logits differ by up to"):
        export.main([str(run)])
    assert not list((run / "export").iterdir())
    export.main([str(run), "--verify=False"])
    assert report(run / "export" / "hf")["verified"] == {"not checked": "anything, because of --verify=False"}


def test_a_file_that_came_out_otherwise_is_not_written(run, monkeypatch):
    monkeypatch.setitem(export_gguf.NAMES, "ln_1", "ffn_norm")
    monkeypatch.setitem(export_gguf.NAMES, "ln_2", "attn_norm")
    quantize = __import__("gguf").quants.quantize
    monkeypatch.setattr("gguf.quants.quantize", lambda data, kind: quantize(data * 1.01, kind))
    with pytest.raises(UserError, match="came back"):
        export.main([str(run), "--format=gguf"])
    assert not list((run / "export").iterdir())


def test_other_merges_are_found_out(run, monkeypatch):
    right = export_hf._bpe
    monkeypatch.setattr(export_hf, "_bpe", lambda *given: {**right(*given), "merges": right(*given)["merges"][:40]})
    with pytest.raises(UserError, match=r"this bpe tokenizer cannot be converted exactly: \d+ of 266 lines"):
        export.main([str(run)])


def other_run(tmp_path, kind):
    path = tmp_path / "tokenizer.model"
    train_tokenizer([make_text(n) for n in range(60)], path, kind, 370)
    return make_run(tmp_path / kind, path)


def test_a_char_tokenizer_is_exact(tmp_path):
    run = other_run(tmp_path, "char")
    export.main([str(run), "--format=all"])
    assert report(run / "export" / "hf")["verified"]["lines with the same ids"] == 200


def test_a_unigram_tokenizer_is_refused_with_the_reason(tmp_path, monkeypatch):
    run = other_run(tmp_path, "unigram")
    with pytest.raises(UserError, match=r"this unigram tokenizer cannot be converted exactly: \d+ of 200 lines"):
        export.main([str(run)])
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UserError, match=r"a unigram tokenizer comes out otherwise in llama\.cpp"):
        export.main([str(run), "--format=gguf"])
    assert not list((run / "export").iterdir())


def test_what_is_there_is_replaced_only_if_it_is_ours(run, tmp_path):
    folder = run / "export" / "hf"
    half = folder.with_name("hf.export.tmp")
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    export.main([str(run), "--verify=False"])
    (folder / "model.safetensors").write_bytes(b"damaged")
    export.main([str(run), "--verify=False"])
    assert sha256(folder / "model.safetensors") == report(folder)["files"]["model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["hf"]
    foreign = tmp_path / "mine" / "hf"
    foreign.mkdir(parents=True)
    (foreign / "novel.txt").write_text("years of work")
    with pytest.raises(UserError, match="is there and is no export of ours"):
        export.main([str(run), f"--export_dir={foreign.parent}"])
    assert [path.name for path in foreign.parent.iterdir()] == ["hf"] and (foreign / "novel.txt").exists()


def test_mistakes_get_a_sentence(run, tmp_path, prepared, monkeypatch, capsys):
    with pytest.raises(UsageError, match="must be one of hf, gguf, all"):
        export.main([str(run), "--format=onnx"])
    with pytest.raises(UserError, match="has no checkpoint yet"):
        export.main([f"--out_dir={tmp_path}"])
    narrow = make_run(tmp_path / "narrow", prepared.tokenizer_path, width=48)
    with pytest.raises(UserError, match="gguf_type=q8_0 takes widths that are a multiple of 32, this model's is 48"):
        export.main([str(narrow), "--format=gguf", "--gguf_type=q8_0"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        export.main([str(run)])
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="pip install gguf"):
        export.main([str(run), "--format=gguf"])
    export.main([str(run), "--format=all", "--dry_run"])
    assert "would export" in capsys.readouterr().out and not list((run / "export").iterdir())


def test_pushing(run, monkeypatch, capsys):
    calls = []

    class HfApi:
        def create_repo(self, repo, private, exist_ok):
            calls.append((repo, private))

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            calls.append((repo_id, folder_path.name, sorted(allow_patterns)))

    hub = SimpleNamespace(HfApi=HfApi)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    arguments = [str(run), "--format=all", "--verify=False", "--push=me/demo"]
    monkeypatch.setattr(
        export, "hugging_face", lambda leaving, config: (lambda f: (f / "README.md").write_text("x"), lambda f: {})
    )
    export.main(arguments)
    assert calls == [
        ("me/demo", True), ("me/demo", "hf", ["README.md"]), ("me/demo", "gguf-f16", ["Modelfile", "demo-f16.gguf"]),
    ]  # fmt: skip
    assert "uploading to me/demo: Modelfile 0.0 MB, demo-f16.gguf" in capsys.readouterr().out

    def refuse(*given, **named):
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"the Hub refused \(401 Client Error\); the exports are whole"):
        export.main(arguments)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="--push needs the package huggingface_hub"):
        export.main(arguments)


def test_there_and_back(run, tmp_path, monkeypatch):
    """An export, imported, is the run's model; and an imported model can be exported."""
    monkeypatch.chdir(tmp_path)
    export.main([str(run)])
    back = as_run(str(run / "export" / "hf"), "out/back")
    ours, theirs = Leaving.open(str(run), "best"), Leaving.open(back, "best")
    assert Pretrained(back).open_tokenizer().sha256 == ours.tokenizer.sha256
    assert all(torch.equal(t, theirs.tensors()[name]) for name, t in ours.tensors().items())


def test_a_byte_level_model_leaves_as_it_came(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    from oracle.byte_level import from_folder

    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        (make_text(n) for n in range(50)), 400, special_tokens=["<|endoftext|>"], show_progress=False
    )
    learner.save_model(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text(from_folder(tmp_path))
    run = make_run(tmp_path / "gpt2", tmp_path / "tokenizer.json")
    export.main([str(run), "--format=all", "--gguf_type=f32"])
    assert report(run / "export" / "hf")["verified"]["greedy texts equal"].startswith("8 of 8")
    assert "tokenizer.ggml.merges" in gguf_fields(run / "export" / "gguf-f32" / "gpt2-f32.gguf")
