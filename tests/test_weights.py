"""Weights in every format: close to the exact ones, independent of the batch, derived once and never trusted blindly."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import train
from oracle import kernels, weights
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.engine import CachedGPT, Span
from oracle.generate import open_engine
from oracle.kernels import Matrix, deinterleave, interleave, quantize
from oracle.plan import model_shape
from oracle.sampling import SamplingParams
from tests.conftest import TINY
from tests.runs import ROOT

KEPT = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture(scope="module")
def trained(prepared_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "run"
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={path}", *TINY, "--n_embd=64", "--max_iters=30"])
    return path


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def matrices(rows=24, columns=32):
    torch.manual_seed(0)
    weight, bias = torch.randn(rows, columns), torch.randn(rows)
    whole, scale = quantize(weight)
    return weight, bias, [
        Matrix(weight, bias), Matrix(weight.bfloat16(), bias), Matrix(whole, bias, scale), Matrix(whole, None, scale),
    ]  # fmt: skip


def whole(matrix):
    """The weights it computes with, as numbers (out, in)."""
    found = matrix.stored.float() * matrix.scale[:, None]
    return deinterleave(found) if matrix.stored.dtype == torch.int8 else found


def test_int8_is_within_half_a_step():
    weight, _, _ = matrices()
    whole, scale = quantize(weight)
    assert (
        (deinterleave(whole) * scale[:, None] - weight).abs() <= scale[:, None] / 2 * 1.001
    ).all() and whole.abs().max() == 127
    zeros, _ = quantize(torch.zeros(2, 4))
    assert not zeros.any()


@pytest.mark.parametrize("columns", [8, 12, 10])
def test_int8_columns_are_the_quarters_in_turn(columns):
    x = torch.arange(2 * columns).view(2, columns)
    assert torch.equal(deinterleave(interleave(x)), x)
    if columns == 8:
        assert interleave(x)[0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize("n", [1, 3, 7, 40])
@pytest.mark.parametrize("way", ["kernel", "no compiler"])
def test_every_way_gives_the_same_product(monkeypatch, n, way):
    monkeypatch.setattr(kernels, "LARGE", 0)
    # the loops themselves, as the compiler is given them; compiled they are tested once, below
    eager = lambda n, shape, dtype, threads: (  # noqa: E731
        kernels._sums_of_lanes if dtype == torch.int32 else kernels._sums_of_products
    )
    monkeypatch.setattr(kernels, "compiled_kernel", eager if way == "kernel" else lambda *args: None)
    weight, _, found = matrices()
    x = torch.randn(n, weight.shape[1])
    for matrix in found:
        exact = F.linear(x, whole(matrix), matrix.bias)
        exactly = way == "kernel" or matrix.stored.dtype == torch.float32 or n > kernels.FEW
        torch.testing.assert_close(matrix(x), exact, rtol=1e-4 if exactly else 2e-2, atol=1e-4 if exactly else 5e-2)
        if n <= kernels.FEW and way == "kernel":
            assert torch.equal(matrix(x), torch.cat([matrix(row[None]) for row in x]))
        ids = torch.tensor([3, 0])
        assert torch.equal(matrix.rows(ids), whole(matrix)[ids])


def test_the_true_compiler(monkeypatch):
    monkeypatch.setattr(kernels, "LARGE", 0)
    weight, _, found = matrices(16, 16)
    x = torch.randn(2, weight.shape[1])
    matrix = found[2]
    kernel = kernels._compile(2, (16, 4), torch.int32)
    exact = F.linear(x, whole(matrix), matrix.bias)
    quarters = x.view(2, 4, -1)
    torch.testing.assert_close(kernel(matrix._lanes, matrix.scale, matrix.bias, quarters), exact, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_it_goes_on_with_a_warning(monkeypatch, capsys):
    def broken(*args):
        raise RuntimeError("no g++\nmore")

    monkeypatch.setattr(kernels, "_compile", broken)
    kernels.compiled_kernel.cache_clear()
    kernels._warn_once.cache_clear()
    monkeypatch.setattr(kernels, "LARGE", 0)
    for matrix in matrices()[2]:
        matrix(torch.randn(1, 32))
    kernels.compiled_kernel.cache_clear()
    assert capsys.readouterr().err.count("no C++ compiler for the fast kernels (no g++)") == 1


def test_what_is_compiled_outlives_a_reboot(run, tmp_path):
    """In a process of its own: PyTorch decides once where it keeps what it compiles."""
    code = "import os, sys; from oracle.generate import open_engine; open_engine(sys.argv[1]); print(os.environ[sys.argv[2]])"
    environment = {k: v for k, v in os.environ.items() if k != KEPT} | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, run, KEPT], cwd=ROOT, env=environment, capture_output=True)
    assert done.stdout.decode().strip() == str(tmp_path / "nanooracle")


@pytest.mark.parametrize(("before", "home", "after"), [("mine", ".", "mine"), ("", "a file", "")])
def test_a_choice_of_the_users_stands_and_where_nothing_can_be_written_it_is_pytorchs(
    monkeypatch, tmp_path, before, home, after
):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
    monkeypatch.setenv(KEPT, before)
    if not before:
        monkeypatch.delenv(KEPT)
    kernels.keep_compiled()
    assert os.environ.get(KEPT, "") == after


def logits(run, dtype):
    engine = open_engine(run, dtype=dtype)
    return engine.network.forward(torch.arange(4, 16), [Span(0, 0, 12)], every=True)


def test_formats_are_close_and_the_derived_file_is_used(run, monkeypatch):
    exact = logits(run, "float32")
    for dtype, tolerance in (("bfloat16", 0.05), ("int8", 0.1)):
        first = logits(run, dtype)
        assert (first - exact).abs().max() < tolerance * exact.abs().max()
        with monkeypatch.context() as patch:
            patch.setattr(weights, "_convert", None)  # would fail if it were asked for again
            assert torch.equal(logits(run, dtype), first)
    found = {p.name for p in RunDirectory(run).find("best").glob("serving-*")}
    assert found == {f"serving-{d}.{kind}" for d in ("bfloat16", "int8") for kind in ("json", "safetensors")}


@pytest.mark.parametrize("damage", ["derived", "note", "source", "layout"])
def test_a_derived_file_that_does_not_match_is_made_anew(run, damage):
    first, folder = logits(run, "int8"), RunDirectory(run).find("best")
    path = folder / "serving-int8.safetensors"
    whole = path.read_bytes()
    if damage == "derived":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "note":
        path.with_suffix(".json").write_text("{")
    else:
        note = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(note | {damage: "another"}))
    assert torch.equal(logits(run, "int8"), first)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_obstacle(run, monkeypatch):
    def full(*args):
        raise OSError("read-only")

    monkeypatch.setattr(weights, "save_tensors", full)
    assert logits(run, "int8").isfinite().all()
    assert not list(RunDirectory(run).find("best").glob("serving-*"))


def test_damaged_weights_are_found_before_they_are_converted(run):
    path = RunDirectory(run).find("best") / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for dtype in ("float32", "int8"):
        with pytest.raises(UserError, match="bytes have changed"):
            open_engine(run, dtype=dtype)


def test_formats_that_cannot_be(run):
    with pytest.raises(UsageError, match="float16"):
        open_engine(run, dtype="float16")
    checkpoint = Checkpoint.open(RunDirectory(run).find("best"))
    with pytest.raises(UsageError, match="only for CPUs"):
        weights.load_parts(checkpoint, None, "int8", torch.device("cuda"))


def test_int8_writes_the_same_alone_and_together(run):
    prompts = [[1, *range(20, 20 + n)] for n in (0, 3, 9, 2, 7)]
    params = [SamplingParams(max_new_tokens=20, seed=n) for n in range(5)]
    together = open_engine(run, dtype="int8", slots=3).complete(prompts, params)
    alone = open_engine(run, dtype="int8")
    assert [r.tokens for r in together] == [
        alone.complete([p], own)[0].tokens for p, own in zip(prompts, params, strict=True)
    ]


def test_the_bytes_read_for_a_token(run):
    engine = open_engine(run, dtype="int8")
    assert isinstance(engine.network, CachedGPT)
    shape = model_shape_of(run)
    products = 12 * shape.n_layer * shape.n_embd**2 + shape.vocab_size * shape.n_embd
    outputs = shape.n_layer * 9 * shape.n_embd + shape.vocab_size
    assert engine.network.bytes_per_token == products + 4 * outputs


def model_shape_of(run):
    from oracle.config import from_dict

    return model_shape(from_dict(Checkpoint.open(RunDirectory(run).find("best")).config(), ""), 400)
