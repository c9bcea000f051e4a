"""The same weights and answers through TRL's SFTTrainer: the same loss and gradients. Skipped where TRL is absent."""

import numpy as np
import pytest
import torch

from model import GPT, GPTConfig
from oracle.packing import ConversationBatches, PackedRows, Sample
from oracle.stage import Place

SHAPE = GPTConfig(block_size=64, vocab_size=96, n_layer=2, n_head=2, n_embd=32)
END = 3


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 50, 12)
    return [Sample(str(n), rng.integers(4, 96, n), np.arange(n) >= n // 2) for n in lengths]


def theirs(model: GPT, texts: list[Sample], folder) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch of all texts, padded; ids are words to TRL, which needs a tokenizer to pad with."""
    trl, datasets, transformers = (pytest.importorskip(name) for name in ("trl", "datasets", "transformers"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{n}.": n for n in range(SHAPE.vocab_size)}, unk_token="w0."))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=f"w{END}.", eos_token=f"w{END}.", unk_token="w0."
    )
    hf = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=SHAPE.vocab_size, n_positions=SHAPE.block_size, n_embd=SHAPE.n_embd, n_layer=SHAPE.n_layer,
            n_head=SHAPE.n_head, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=END, eos_token_id=END,
            pad_token_id=END,
        )
    )  # fmt: skip
    own = {f"transformer.{name}": tensor for name, tensor in model.state_dict().items()}
    conv = {name: t.t() if name.endswith("weight") and ".c_" in name else t for name, t in own.items()}
    hf.load_state_dict(conv | {"lm_head.weight": model.wte.weight}, strict=True)
    rows = [{"input_ids": t.ids.tolist(), "completion_mask": t.mask.astype(int).tolist()} for t in texts]
    config = trl.SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=len(texts), report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, completion_only_loss=True, max_length=None, max_steps=1,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=hf, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        name.removeprefix("transformer."): p.grad.t() if name.endswith("weight") and ".c_" in name else p.grad
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
    return float(loss.detach()), gradients


def test_loss_and_gradients_equal_trl(tmp_path):
    torch.manual_seed(0)
    model, texts = GPT(SHAPE), samples()
    for p in model.parameters():
        p.data.mul_(3)
    expected, gradients = theirs(model, texts, tmp_path)
    rows = PackedRows(texts, SHAPE.block_size)
    assert len(rows) < len(texts)  # ours are packed, theirs are padded
    place = Place(torch.device("cpu"), torch.float32)
    batch = ConversationBatches(rows, len(rows), 2, 0, place).step(0)
    total = 0.0
    for micro in batch.micro_batches:
        part = model(*micro, reduction="sum") / batch.n_targets
        part.backward()
        total += float(part.detach())
    worst = max(float((p.grad - gradients[name]).abs().max()) for name, p in model.named_parameters())
    print(f"loss {total:.7f} and {expected:.7f}; largest difference of a gradient {worst:.1e}")
    assert total == pytest.approx(expected, abs=1e-5) and worst < 1e-5
