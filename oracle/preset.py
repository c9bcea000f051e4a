"""What should fit on a device, by arithmetic: the memory of a run, and the micro-batch and loss chunks for a GPU."""

import torch

from model import GPTConfig, count_parameters

GIB = 1 << 30
CARDS = {"24 GB": 23.5, "32 GB": 31.4, "48 GB": 44.4, "80 GB": 79.2, "141 GB": 139.8}  # GiB that CUDA reports of them
CHUNKS = (1, 4, 8)  # of the loss; what more would save is small beside the activations
ENOUGH = 32 * 1024  # tokens of a micro-batch: more are at most 2 % faster, and chunks cost as much
MOST = 64 * 1024
SPARE = 0.15  # of the memory: the estimate's error, allocator, evaluation


def micro_batch_sizes(sequences: int) -> list[int]:
    """The micro-batches that cut `sequences` evenly, each at least half as large again as the one before."""
    sizes: list[int] = []
    for size in range(1, sequences + 1):
        if sequences % size == 0 and (not sizes or size >= 1.5 * sizes[-1]):
            sizes.append(size)
    return sizes


def memory_gib(model: GPTConfig, batch_size: int, loss_chunks: int, dtype: torch.dtype) -> dict[str, float]:
    """Estimated GiB on the device while training: float32 weights, gradients and two moments; activations; logits.

    Activations are counted as 16 values of n_embd per layer and token (fused attention), logits as one copy in the
    matrix format and one in float32: measured figures on other models lie within some 20 % of this. A loss in chunks
    has the logits of one chunk, and the gradient of the embedding once more.
    """
    width, tokens, parameters = dtype.itemsize, batch_size * model.block_size, count_parameters(model)
    logits = model.vocab_size * -(-tokens // max(1, loss_chunks)) * (width + 4)
    if loss_chunks > 1:
        logits += model.vocab_size * model.n_embd * (width + 4)
    copy = 0 if dtype == torch.float32 else width * parameters  # that autocast makes
    return {
        "weights, gradients, AdamW": (16 * parameters + copy) / GIB,
        "activations": 16 * model.n_embd * model.n_layer * tokens * width / GIB,
        "logits": logits / GIB,
    }


def preset(model: GPTConfig, sizes: list[int], gib: float, dtype: torch.dtype) -> tuple[int, int]:
    """(micro-batch, loss chunks) for a GPU of `gib` GiB: the largest of `sizes` that should fit, with the fewest
    chunks that reach it or ENOUGH tokens. The smallest in the most chunks where nothing should."""
    sizes = [size for size in sizes if size * model.block_size <= MOST] or sizes[:1]
    room = (1 - SPARE) * gib
    reach = {
        n: max((size for size in sizes if sum(memory_gib(model, size, n, dtype).values()) <= room), default=0)
        for n in CHUNKS
    }
    goal = min(max(reach.values()), max(1, ENOUGH // model.block_size))
    if not goal:
        return sizes[0], CHUNKS[-1]
    chunks = next(n for n in CHUNKS if reach[n] >= goal)
    return reach[chunks], chunks


def in_words(model: GPTConfig, batch_size: int, loss_chunks: int, dtype: torch.dtype) -> str:
    loss = f"the loss in {loss_chunks} chunks" if loss_chunks > 1 else "the loss in one piece"
    gib = sum(memory_gib(model, batch_size, loss_chunks, dtype).values())
    return f"micro-batches of {batch_size} sequences, {loss} (about {gib:.1f} GiB)"
