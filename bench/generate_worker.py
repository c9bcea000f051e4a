"""One engine writes once, in a process of its own: its speed, its first token and its peak memory as a line of JSON.

    python -m bench.generate_worker ENGINE MODEL THREADS PROMPT_TOKENS NEW_TOKENS

Peers may need a Python of their own, so only what an engine needs is imported.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator

WARM_UP = 8  # tokens written before the clock runs: kernels are compiled, caches filled
ROWS = 50_304

Write = Callable[[list[int], int], Iterator[int]]  # prompt, new tokens -> a token at a time


def ours(dtype: str) -> Callable[[str, int], Write]:
    def load(model: str, threads: int) -> Write:
        import torch

        from oracle.generate import open_engine
        from oracle.sampling import SamplingParams

        torch.set_num_threads(threads)
        engine = open_engine(model, dtype=dtype)

        def write(prompt: list[int], count: int) -> Iterator[int]:
            request = engine.submit(prompt, SamplingParams(max_new_tokens=count, temperature=0))
            while not request.finish_reason:
                engine.step()
                yield from request.tokens[-1:]

        return write

    return load


def nanogpt(dtype: str) -> Callable[[str, int], Write]:
    """nanoGPT's generate: the whole context again for every token."""

    def load(model: str, threads: int) -> Write:
        import torch

        from model import GPT, GPTConfig

        torch.set_num_threads(threads)
        gpt = GPT(GPTConfig(1024, ROWS, 24, 16, 1024)).to(getattr(torch, dtype)).eval()

        @torch.inference_mode()
        def write(prompt: list[int], count: int) -> Iterator[int]:
            ids = torch.tensor([prompt])
            for _ in range(count):
                token = gpt(ids)[0, -1].argmax()
                ids = torch.cat([ids, token.view(1, 1)], dim=1)
                yield int(token)

        return write

    return load


def transformers(dtype: str) -> Callable[[str, int], Write]:
    def load(model: str, threads: int) -> Write:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.set_num_threads(threads)
        shape = GPT2Config(vocab_size=ROWS, n_positions=1024, n_embd=1024, n_layer=24, n_head=16)
        gpt = GPT2LMHeadModel(shape).to(getattr(torch, dtype)).eval()

        @torch.inference_mode()
        def write(prompt: list[int], count: int) -> Iterator[int]:
            ids, past = torch.tensor([prompt]), None
            for _ in range(count):
                out = gpt(ids, past_key_values=past, use_cache=True)
                past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
                yield int(ids)

        return write

    return load


def llama(model: str, threads: int) -> Write:
    from llama_cpp import Llama

    engine = Llama(model, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(prompt: list[int], count: int) -> Iterator[int]:
        engine.reset()
        for number, token in enumerate(engine.generate(prompt, temp=0.0), start=1):
            yield token
            if number == count:
                return

    return write


ENGINES: dict[str, Callable[[str, int], Write]] = {
    "ours-float32": ours("float32"),
    "ours-bfloat16": ours("bfloat16"),
    "ours-int8": ours("int8"),
    "nanogpt-float32": nanogpt("float32"),
    "nanogpt-bfloat16": nanogpt("bfloat16"),
    "transformers-float32": transformers("float32"),
    "transformers-bfloat16": transformers("bfloat16"),
    "llama": llama,
}


def main(engine: str, model: str, threads: int, prompt_tokens: int, new_tokens: int) -> None:
    began = time.perf_counter()
    write = ENGINES[engine](model, threads)
    loaded = time.perf_counter() - began
    rng = random.Random(0)
    prompt = [1, *(rng.randrange(300, 50_000) for _ in range(prompt_tokens - 1))]
    list(write(prompt, min(WARM_UP, new_tokens)))
    began = first = time.perf_counter()
    count = 0
    # Another first token, so that nothing of the warm-up is still there to be used.
    for _ in write([prompt[0], prompt[1] + 1, *prompt[2:]], new_tokens):
        count += 1
        if count == 1:
            first = time.perf_counter()
    seconds = time.perf_counter() - first
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    record = {"tokens_per_second": (count - 1) / seconds, "tokens": count, "first_ms": (first - began) * 1000}
    print(json.dumps(record | {"load_seconds": loaded, "peak_mib": peak}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
