"""Take a model to other programs: transformers, llama.cpp, Ollama, the Hugging Face Hub.

python export.py out/demo-chat --format=hf
python export.py out/demo-chat --format=gguf --gguf_type=q8_0
python export.py out/demo-chat --format=all --push=someone/demo-chat

Every export is checked before it gets its name: token ids of thousands of lines, logits and greedy text, through the
program it is for. One that is not the same model is not written.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from oracle import cli, export_gguf, export_hf
from oracle.cli import UserError
from oracle.config import load
from oracle.export import EXPORT, Leaving, refuse_foreign, write_folder
from oracle.export_check import verify
from oracle.settings import Config


def main(argv: Sequence[str]) -> None:
    call = load("export.py", argv)
    config = call.config
    leaving = Leaving.open(config.out_dir, config.checkpoint)
    parent = Path(config.export_dir) if config.export_dir else leaving.run / "export"
    kinds = {"hf": ["hf"], "gguf": [f"gguf-{config.gguf_type}"], "all": ["hf", f"gguf-{config.gguf_type}"]}[
        config.format
    ]
    if call.dry_run:
        print(f"would export {leaving.checkpoint.path} into {', '.join(str(parent / kind) for kind in kinds)}")
        return
    for kind in kinds:
        refuse_foreign(parent / kind)
    for kind in kinds:
        fill, check = hugging_face(leaving, config) if kind == "hf" else gguf(leaving, config)
        write_folder(parent / kind, leaving, fill, check)
        print(f"wrote {parent / kind}")
    if config.push:
        push([parent / kind for kind in kinds], config.push)


def hugging_face(leaving: Leaving, config: Config) -> tuple[Callable[[Path], None], Callable[[Path], dict[str, Any]]]:
    """How to fill the folder, and how to check it."""

    def check(folder: Path) -> dict[str, Any]:
        if not config.verify:
            return skipped()
        return told(verify(export_hf.Transformers(folder), leaving, export_hf.kind_of(leaving)))

    return partial(export_hf.write, leaving), check


def gguf(leaving: Leaving, config: Config) -> tuple[Callable[[Path], None], Callable[[Path], dict[str, Any]]]:
    """How to fill the folder, and how to check it. Without llama.cpp only the file itself is checked."""
    kind = export_hf.kind_of(leaving)

    def check(folder: Path) -> dict[str, Any]:
        if not config.verify:
            return skipped()
        (path,) = folder.glob("*.gguf")
        found = export_gguf.reread(path, leaving, config.gguf_type)
        try:
            reader = export_gguf.LlamaCpp(path, leaving)
        except ImportError:
            if kind == "unigram":
                raise UserError(
                    "a unigram tokenizer comes out otherwise in llama.cpp, which merges pieces by rank: train with"
                    " --tokenizer_type=bpe, or take the export as it is, --verify=False"
                ) from None
            missing = "ids, logits and text in llama.cpp: pip install llama-cpp-python to check these too"
            return told({**found, "not checked": missing})
        return told({**found, **verify(reader, leaving, kind, export_gguf.LIMITS[config.gguf_type])})

    return lambda folder: export_gguf.write(leaving, folder, config.gguf_type), check


def skipped() -> dict[str, Any]:
    return told({"not checked": "anything, because of --verify=False"})


def told(found: dict[str, Any]) -> dict[str, Any]:
    """Print what a check found, and hand it on to be kept."""
    print(
        "checked: "
        + ", ".join(
            f"{name} {value:.3g}" if type(value) is float else f"{name} {value}" for name, value in found.items()
        )
    )
    return found


def push(folders: Sequence[Path], repo: str) -> None:
    """Upload exports to the Hub, into a repository that is private until its owner makes it public.

    Raises UserError if huggingface_hub is missing, or refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("--push needs the package huggingface_hub: pip install -r requirements-serve.txt") from None
    api = HfApi()  # the token is HF_TOKEN's, or that of `hf auth login`
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        for number, folder in enumerate(folders):
            files = [path for path in sorted(folder.iterdir()) if path.name != EXPORT]
            # One card for a repository: the first folder's.
            files = [path for path in files if not number or path.name != "README.md"]
            sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:,.1f} MB" for path in files)
            print(f"uploading to {repo}: {sizes}", flush=True)
            api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[path.name for path in files])
    except (OSError, ValueError) as error:  # HTTP errors are OSErrors there
        raise UserError(
            f"--push={repo}: the Hub refused ({str(error).splitlines()[0]}); the exports are whole in"
            f" {folders[0].parent}: set HF_TOKEN to a token that may write, or run hf auth login, and try again"
        ) from None
    print(f"https://huggingface.co/{repo} is up; a new repository is private until you make it public")


if __name__ == "__main__":
    sys.exit(cli.run(main))
