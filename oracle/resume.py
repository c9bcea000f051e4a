"""What a run and its continuation must share, what may change, and the command that goes on."""

import dataclasses
import shlex
from collections.abc import Sequence

from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.dist import World
from oracle.settings import Config
from oracle.versions import versions

ORDER = ("seed", "total_batch_size")  # with these, which tokens are in which step
NOT_OF_THE_RUN = ("init_from", "max_minutes")  # of this process only


def find_checkpoint(run: RunDirectory, config: Config, identity: dict[str, str]) -> Checkpoint | None:
    """The checkpoint to resume, or None for a fresh run. Raises UserError rather than overwrite or mix runs."""
    existing = run.pointers().get("last")
    if config.init_from != "resume":
        if existing:
            raise UserError(
                f"{run.path}: holds a run at {existing}: go on with --init_from=resume,"
                " or choose another --out_dir; nothing is overwritten"
            )
        return None
    checkpoint = Checkpoint.open(run.find("last"))
    for what, now in identity.items():
        before = checkpoint.identity[what]
        if before != now:
            raise UserError(
                f"{run.path}: was trained with {what} {before[:12]}, {config.data_dir} holds {what} {now[:12]}:"
                " resume with the data it was trained on, or start a new run"
            )
    return checkpoint


def same_steps(config: Config, checkpoint: Checkpoint) -> Config:
    """`config` with the checkpoint's tokens per step where it leaves them open: a resumed run has the same batches.

    Raises UserError for a setting that would give other batches.
    """
    old = checkpoint.config()
    if not config.total_batch_size:
        config = dataclasses.replace(config, total_batch_size=old["total_batch_size"])
    for name in ORDER:
        now, was = getattr(config, name), old[name]
        if now != was and was:  # 0 in checkpoints from before it was filled in
            raise UserError(
                f"{checkpoint.path}: was trained with {name}={was}, now it is {now}: the order of the training text"
                f" depends on it; resume with --{name}={was}, or start a new run"
            )
    return config


def changes(config: Config, checkpoint: Checkpoint) -> list[str]:
    """Every setting and version that differs from the checkpoint's, in words: allowed, and worth knowing."""
    notes = []
    old = checkpoint.config()
    for name, value in dataclasses.asdict(config).items():
        was = old.get(name)
        if was != (list(value) if isinstance(value, tuple) else value) and name not in NOT_OF_THE_RUN:
            notes.append(f"{name} was {was!r}, is now {value!r}")
    for name, now in versions().items():
        if checkpoint.versions.get(name, now) != now:
            notes.append(f"{name} was {checkpoint.versions[name]}, is now {now}: figures may differ in the last digits")
    return notes


def resume_command(script: str, argv: Sequence[str], world: World) -> str:
    """The shell command that goes on with the run that `script` started with `argv`."""
    start = ["python"] if world.size == 1 else ["torchrun", f"--nproc_per_node={world.size}"]
    kept = [word for word in argv if not word.startswith("--init_from=")]
    return shlex.join([*start, script, *kept, "--init_from=resume"])
