"""The loop nanoGPT users know, said again with this repository's parts: what ours has to be faster than.

What is nanoGPT's (github.com/karpathy/nanoGPT, train.py and model.py): the exact GELU; windows at random places, made
on the host for each micro-batch while the device is at the last one; the loss of a micro-batch a mean, divided by
their number; autocast, torch.compile and PyTorch's own choice of attention; AdamW fused on CUDA only; the loss read
back every tenth step. bench/beside_nanogpt.py runs nanoGPT's own files instead.
"""

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F

from bench.jobs import Text, optimizer_of
from bench.measure import Clock
from bench.variants import Variant
from model import GPT, MLP, Block
from oracle.hardware import autocast, setup
from oracle.optim import learning_rate
from oracle.plan import make_plan
from oracle.settings import Config
from oracle.shards import Split

READ_BACK = 10  # steps between looks at the loss


@lru_cache(maxsize=1)
def flat(split: Split) -> torch.Tensor:
    """Every token in one int32 vector, the same for all contenders."""
    return torch.from_numpy(split.all_tokens().astype("int32"))


class ExactMLP(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class NanoGPT:
    """A contender (`bench.measure.Contender`)."""

    def __init__(self, variant: Variant, config: Config, text: Text) -> None:
        self.config = config
        self.device, dtype = setup(config)
        self.cast = autocast(self.device, dtype)
        plan = make_plan(config, text.vocab_size, text.train.tokens)
        torch.manual_seed(config.seed)
        model = GPT(plan.model)
        for block in model.h:
            cast(Block, block).mlp = ExactMLP(plan.model)
        model.init_weights()
        self.model = model.to(self.device)
        self.forward = torch.compile(model) if config.compile else model
        self.optimizer = optimizer_of("fused" if self.device.type == "cuda" else "for-loop", self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.tokens = flat(text.train)
        self.clock = Clock(self.device, config.threads)
        self.tokens_per_step, self.micro_batches = plan.tokens_per_step, plan.micro_batches
        self.step = 0

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, (B, T) int64 on the device."""
        T = self.config.block_size
        with self.clock.waiting():
            starts = torch.randint(len(self.tokens) - T - 1, (self.config.batch_size,)).tolist()
            both = torch.stack([self.tokens[i : i + T + 1] for i in starts]).long()
            x, y = both[:, :-1].contiguous(), both[:, 1:].contiguous()
            if self.device.type == "cuda":
                return tuple(t.pin_memory().to(self.device, non_blocking=True) for t in (x, y))  # type: ignore[return-value]
            return x.to(self.device), y.to(self.device)

    def run(self, steps: int) -> None:
        self.model.train()
        self.clock.lap()
        x, y = self.batch()
        for number in range(steps + 1):
            if number:
                self.clock.lap()
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.config, self.config.max_iters)
            for _ in range(self.micro_batches):
                with self.cast():
                    loss = self.forward(x, y, reduction="mean") / self.micro_batches
                x, y = self.batch()
                self.scaler.scale(loss).backward()
            if self.config.grad_clip:
                self.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if self.step % READ_BACK == 0:
                loss.item()

    def fresh(self) -> None:
        pass
