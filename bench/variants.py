"""What is compared: named lists of settings, some of them the bench's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.jobs import BARE
from oracle.cli import UsageError
from oracle.config import load, names_of
from oracle.settings import Config

# Settings of a variant that are no settings of training, with what they are unless given.
OWN = {"compile_mode": "", "optimizer": "fused", "loop": "ours", "linears": "plain"}
CHOICES = {"optimizer": ("fused", "for-loop"), "loop": ("ours", "nanogpt"), "linears": ("plain", "fp8")}
MICRO_BATCHES = (8, 16, 32, 64, 128)
NANOGPT_MICRO_BATCH = 12  # nanoGPT's default
SIZE_OF_NANOGPT = (8, 16, 32, 64)  # among which its own best is looked for
ATTENTION = ("cudnn", "flash", "efficient", "math")
LOSS_CHUNKS = (4, 8)


@dataclass(frozen=True)
class Variant:
    name: str
    settings: tuple[str, ...] = ()  # `--name=value` of train.py
    own: dict[str, str] = field(default_factory=lambda: dict(OWN))

    @property
    def dtype(self) -> str:
        """As this variant sets it; empty where the config does."""
        return next((word for word in reversed(self.settings) if word.startswith("--dtype=")), "")

    def config(self, place: str, settings: Sequence[str]) -> Config:
        """The checked settings; nanoGPT's loop takes as many whole micro-batches as fit into the step."""
        if self.own["loop"] == "ours":
            return load("train.py", [place, *settings, *self.settings, *BARE]).config
        base = load("train.py", [place, *settings, *BARE]).config
        size = [f"--batch_size={base.batch_size or NANOGPT_MICRO_BATCH}", *self.settings, "--total_batch_size=0"]
        micro = load("train.py", [place, *settings, *size, *BARE]).config
        tokens = micro.batch_size * micro.block_size
        total = base.total_batch_size or base.batch_size * base.block_size
        whole = f"--total_batch_size={max(1, total // tokens) * tokens}"
        return load("train.py", [place, *settings, *size, whole, *BARE]).config


def parse(text: str) -> tuple[list[Variant], list[str]]:
    """`name:--setting=value --other=value;name2:…` as variants, and a note for each that has a setting unknown here.

    Raises UsageError for what is not of this form.
    """
    found, notes = [], []
    for part in filter(None, (p.strip() for p in text.split(";"))):
        name, colon, words = part.partition(":")
        settings = words.split()
        if not colon or not name.strip() or not all(w.startswith("--") and "=" in w for w in settings):
            raise UsageError(f"--compare: {part!r} is no variant; write 'name:--setting=value --other=value;name2:…'")
        try:
            found.append(variant(name.strip(), settings))
        except LookupError as unknown:
            notes.append(f"{name.strip()}: left out, there is no setting {unknown.args[0]} here")
    names = [v.name for v in found]
    if len(set(names)) < len(names):
        raise UsageError(f"--compare: {', '.join(names)}: give each variant a name of its own")
    return found, notes


def variant(name: str, words: Sequence[str]) -> Variant:
    """Raises LookupError with the name of a setting that does not exist, UsageError for a value not allowed."""
    settings, own = [], dict(OWN)
    for word in words:
        setting, _, value = word.removeprefix("--").partition("=")
        if setting in names_of("train.py"):
            settings.append(word)
        elif setting not in OWN:
            raise LookupError(setting)
        elif setting in CHOICES and value not in CHOICES[setting]:
            raise UsageError(f"--compare: {name}: {setting}={value}: must be one of {', '.join(CHOICES[setting])}")
        else:
            own[setting] = value
    return Variant(name, tuple(settings), own)


def built_in(config: Config, device_type: str) -> str:
    """The variants of a bare `--compare` as a text for `parse`, the most telling first: time may run out."""
    sequences = config.total_batch_size // config.block_size or config.batch_size
    sizes = [size for size in MICRO_BATCHES if size <= sequences and sequences % size == 0]
    gpu = device_type == "cuda"
    compiled_too = "" if config.compile else " --compile=True"
    nanogpt = f"--loop=nanogpt --compile={gpu or config.compile}"
    parts = [
        "as configured:",
        f"nanogpt:{nanogpt} --batch_size={min(NANOGPT_MICRO_BATCH, sequences)}",
        *(f"micro-batch {size}:--batch_size={size}" for size in sizes if size != config.batch_size),
        *(f"nanogpt {size}:{nanogpt} --batch_size={size}" for size in SIZE_OF_NANOGPT if size <= sequences),
        *(f"attention {kind}:--attention={kind}" for kind in (ATTENTION if gpu else ("math",))),
        *(f"loss in {n} chunks:--loss_chunks={n}" for n in LOSS_CHUNKS),
        f"compile {'off' if config.compile else 'on'}:--compile={not config.compile}",
        "for-loop AdamW:--optimizer=for-loop",
        f"max-autotune:--compile_mode=max-autotune-no-cudagraphs{compiled_too}",
    ]
    if gpu:
        parts.append("fp8 linears:--linears=fp8")
    else:
        parts.append(f"bfloat16:--dtype={'float32' if config.dtype == 'bfloat16' else 'bfloat16'}")
    return ";".join(parts)
