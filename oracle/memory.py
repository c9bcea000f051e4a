"""Which micro-batch fits, and which is fastest: measured on the device, not guessed."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch

from model import GPT
from oracle.cli import UserError
from oracle.dist import World
from oracle.hardware import autocast
from oracle.preset import GIB, in_words, micro_batch_sizes, preset
from oracle.settings import Config

CPU_TOKENS = 4096  # a CPU gains nothing from more at once, and its caches lose
SPARE = 0.08  # of the device's memory: allocator, communication, evaluation
REPEATS = 3
GAIN = 1.02  # a larger micro-batch must be this much faster

Measure = Callable[[int], float]  # micro-batch -> seconds per sequence; raises torch.OutOfMemoryError


def fastest(sizes: Sequence[int], measure: Measure) -> int:
    """The micro-batch of the highest speed, the smallest of those as fast; 0 when none fits."""
    seconds: dict[int, float] = {}
    for size in sizes:  # ascending: what is larger than one that does not fit does not fit
        try:
            seconds[size] = measure(size)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what it had allocated
            break
    return next((size for size in seconds if seconds[size] <= GAIN * min(seconds.values())), 0)


def settled(
    config: Config, model: GPT, sequences: int, device: torch.device, dtype: torch.dtype, world: World
) -> Config:
    """`config` with the micro-batch and the loss chunks decided where they are auto, and `model` set to the latter.

    `sequences` of a step are this rank's. What was chosen, and why, is printed.
    """
    if not config.loss_chunks and device.type == "cuda":
        gib = -world.largest(-torch.cuda.get_device_properties(device).total_memory / GIB)
        sizes = [config.batch_size] if config.batch_size else micro_batch_sizes(sequences)
        size, chunks = preset(model.config, sizes, gib, dtype)
        config = dataclasses.replace(config, batch_size=size, loss_chunks=chunks)
        print(f"loss_chunks=auto: for a GPU of {gib:.1f} GiB {in_words(model.config, size, chunks, dtype)}")
    elif not config.loss_chunks:
        config = dataclasses.replace(config, loss_chunks=1)
        print(f"loss_chunks=auto: the loss in one piece, as only CUDA GPUs short of memory gain ({device.type} here)")
    model.loss_chunks = config.loss_chunks
    if not config.batch_size:
        size = choose_batch_size(model.to(device), sequences, autocast(device, dtype), device, world)
        config = dataclasses.replace(config, batch_size=size)
        print(f"batch_size=auto: micro-batches of {size} sequences")
    return config


def choose_batch_size(
    model: GPT, sequences: int, cast: Callable[[], AbstractContextManager], device: torch.device, world: World
) -> int:
    """`batch_size=auto`: the fastest micro-batch for this rank's `sequences` of a step.

    On a CPU the rule is the largest of at most CPU_TOKENS tokens. Elsewhere each candidate is measured, without
    torch.compile, which needs less memory and not more; all ranks take the smallest of their answers.
    """
    sizes = micro_batch_sizes(sequences)
    if device.type == "cpu":
        return max(size for size in sizes if size == 1 or size * model.config.block_size <= CPU_TOKENS)
    best = -int(world.largest(-fastest(sizes, measurement(model, cast, device))))
    if not best:
        raise UserError(
            f"not even one sequence of block_size={model.config.block_size} fits on the device: lower block_size,"
            " n_layer or n_embd, or share the model out among GPUs with torchrun and --fsdp=True"
        )
    return best


def measurement(model: GPT, cast: Callable[[], AbstractContextManager], device: torch.device) -> Measure:
    """Forward and backward passes of `model` on random tokens, with room left for AdamW's two moments."""

    def seconds_per_sequence(size: int) -> float:
        forget_peak(device)
        count = sum(p.numel() for p in model.parameters())
        moments = torch.empty(2 * count, device=device)
        tokens = torch.randint(0, model.config.vocab_size, (size, model.config.block_size), device=device)
        try:
            for repeat in range(REPEATS + 1):
                if repeat == 1:  # the first one is for allocators and kernels
                    wait(device)
                    began = time.perf_counter()
                with cast():
                    loss = model(tokens, tokens, reduction="mean")
                loss.backward()
            wait(device)
            elapsed = time.perf_counter() - began
        finally:
            model.zero_grad(set_to_none=True)
            del moments
        refuse_if_tight(device)
        return elapsed / (REPEATS * size)

    return seconds_per_sequence


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def refuse_if_tight(device: torch.device) -> None:
    """Raises torch.OutOfMemoryError if the device came close to its limit since `forget_peak`."""
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        if peak > (1 - SPARE) * total:
            raise torch.OutOfMemoryError(f"{peak:,} of {total:,} bytes")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (or, in a RuntimeError of its own, a CPU's allocator) had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def naming_what_fits(batch_size: int, sequences: int, measure: Measure | None) -> Iterator[None]:
    """Within, running out of memory becomes a UserError that names the setting to lower and the value that fits.

    `sequences` of a step are this rank's; the value is found with `measure`, or is the next lower one without.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
    smaller = [size for size in micro_batch_sizes(sequences) if size < batch_size]
    fitting = fastest(smaller, measure) if measure else smaller[-1] if smaller else 0
    if fitting:
        found = "fits (measured)" if measure else "is the next lower one"
        advice = f"lower it: --batch_size={fitting} {found}, and a step stays the same {sequences} sequences"
    else:
        advice = "no smaller one fits either: lower block_size, n_layer or n_embd, or use torchrun with --fsdp=True"
    raise UserError(
        f"out of memory with batch_size={batch_size}; {advice}; what was saved is whole, resume it"
    ) from None
