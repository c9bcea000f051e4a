"""Let a trained model write.

python sample.py out/demo --start="Το λιμάνι" --num_samples=2 --temperature=0.7 --top_p=0.9
python sample.py out/demo --start=FILE:beginning.txt
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.config import load, without_effect
from oracle.generate import open_engine, prompt_ids
from oracle.hardware import setup
from oracle.sampling import SamplingParams
from oracle.text import normalize


def main(argv: Sequence[str]) -> None:
    call = load("sample.py", argv)
    config = call.config
    for warning in without_effect(config, "sample.py"):
        print(f"warning: {warning}", file=sys.stderr)
    text = read_start(config.start)
    device, _ = setup(config)
    engine = open_engine(config.out_dir, config.checkpoint, config.dtype, device=device)
    prompt, window = prompt_ids(engine.tokenizer, text), engine.block_size
    if len(prompt) > window:
        print(
            f"note: the prompt has {len(prompt):,} tokens, the context {window:,}: only its end is seen",
            file=sys.stderr,
        )
    if call.dry_run:
        print(f"would complete {text!r} ({len(prompt)} tokens) with {engine.name}")
        return
    for number in range(config.num_samples):
        params = SamplingParams(
            config.max_new_tokens, config.temperature, config.top_k, config.top_p, seed=config.seed + number
        )
        print(text, end="", flush=True)
        for piece in engine.stream(prompt[-window:], params):
            print(piece, end="", flush=True)
        print("\n" + "-" * 20)


def read_start(start: str) -> str:
    """The prompt's text, from the setting or from the file it names, in the form the model was trained on."""
    if not start.startswith("FILE:"):
        if any("\ud800" <= character <= "\udfff" for character in start):  # how Python shows bytes it could not read
            raise UsageError(
                "--start: the text is not UTF-8 as this console sends it; put it in a file, --start=FILE:path"
            )
        return normalize(start)
    path = Path(start.removeprefix("FILE:"))
    if not path.is_file():
        raise UsageError(f"--start={start}: no such file; give FILE:path of a text file, or the text itself")
    try:
        return normalize(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid UTF-8 at byte {error.start}; convert it to UTF-8") from None


if __name__ == "__main__":
    sys.exit(cli.run(main))
