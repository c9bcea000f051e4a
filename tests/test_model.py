"""The network is GPT-2: the same numbers as transformers' on the same weights."""

import math

import pytest
import torch

from model import GPT, IGNORE, GPTConfig, count_parameters, flops_per_token

TINY = GPTConfig(block_size=12, vocab_size=50, n_layer=3, n_head=4, n_embd=32)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(TINY).eval()


def test_logits_and_gradients_equal_transformers_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TINY.vocab_size,
            n_positions=TINY.block_size,
            n_embd=TINY.n_embd,
            n_layer=TINY.n_layer,
            n_head=TINY.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    for p in theirs.parameters():  # biases and gains that matter, too
        torch.nn.init.normal_(p, std=0.3)
    ours = GPT(TINY)
    conv1d = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    state = {
        k.removeprefix("transformer."): v.t() if k.endswith(conv1d) else v
        for k, v in theirs.state_dict().items()
        if k.startswith("transformer.") and not k.endswith((".attn.bias", ".attn.masked_bias"))
    }
    ours.load_state_dict(state)
    x = ids(2, TINY.block_size)
    torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-4)
    loss = ours(x[:, :-1], x[:, 1:])
    their_loss = theirs(x, labels=x).loss
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    their_loss.backward()
    for name, p in ours.named_parameters():
        q = theirs.get_parameter(f"transformer.{name}").grad
        assert q is not None
        torch.testing.assert_close(p.grad, q.t() if name.endswith(conv1d) else q, rtol=1e-3, atol=1e-4)


def test_the_future_is_not_seen(model):
    x = ids(1, 12)
    changed = x.clone()
    changed[0, 7:] = (x[0, 7:] + 1) % TINY.vocab_size
    torch.testing.assert_close(model(x)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(x)[:, 7:], model(changed)[:, 7:])


def test_ignored_targets_do_not_count(model):
    x, y = ids(2, 12), ids(2, 12)
    y[:, :5] = IGNORE
    kept = torch.nn.functional.cross_entropy(model(x)[:, 5:].flatten(0, 1), y[:, 5:].flatten())
    torch.testing.assert_close(model(x, y), kept)
    torch.testing.assert_close(model(x, y, reduction="sum"), kept * 14)
    assert model(x, torch.full_like(y, IGNORE), reduction="sum") == 0
    assert model(x, y, reduction="none").shape == (24,)


def test_untrained_loss_is_that_of_guessing():
    torch.manual_seed(0)
    config = GPTConfig(block_size=32, vocab_size=1000, n_layer=2, n_head=2, n_embd=64)
    x = torch.randint(0, 1000, (8, 33))
    assert GPT(config)(x[:, :-1], x[:, 1:]).item() == pytest.approx(math.log(1000), abs=0.2)


def test_initialisation_scales_residual_projections():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=8, n_head=2, n_embd=128))
    assert model.h[0].mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.h[0].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert not model.h[0].attn.c_attn.bias.any() and (model.ln_f.weight == 1).all()


def test_dropout_only_while_training():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=2, n_head=2, n_embd=32, dropout=0.5))
    x = torch.randint(0, 64, (1, 8))
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_sizes_of_the_shipped_shape():
    medium = GPTConfig(n_layer=24, n_head=16, n_embd=1024)
    assert count_parameters(medium) == 354_871_296
    assert flops_per_token(medium) == pytest.approx(2.425e9, rel=1e-3)
    without_bias = GPTConfig(n_layer=24, n_head=16, n_embd=1024, bias=False)
    assert count_parameters(medium) - count_parameters(without_bias) == 24 * (3 + 1 + 4 + 1 + 2) * 1024 + 1024


def test_too_long_an_input_is_refused(model):
    with pytest.raises(ValueError, match="13 tokens given, the context holds 12"):
        model(ids(1, 13))
