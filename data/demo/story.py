"""`make demo`: the whole story on the embedded newspaper, step by step, each with the command a user would type.

    python -m data.demo.story

The newspaper's site is a stand-in on this machine. A second run finds its work done and goes straight to the samples.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from data.demo.standin import PORT, StandIn, read_articles

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "out" / "demo"
SCRAPE = [
    *("-m", "data.rizospastis.scrape", "--base_url=SITE", "--from=2018-03-01", "--to=2018-05-31"),
    *("--delay=0", "--contact=you@example.org", "--out=data/demo/raw"),
]
CLEAN = [
    *("-m", "data.rizospastis.clean", "--raw=data/demo/raw", "--out=data/demo/corpus.jsonl"),
    *("--name=Η Φωνή του Μελισσόπορου", "--source=invented for nanoOracle", "--licence=MIT"),
]
SPOIL = [
    *("-m", "data.preferences.corrupt", "--corpus=data/demo/corpus.jsonl", "--language=el", "--prompt_words=8"),
    *("--chosen_words=16", "--per_document=6", "--out=data/demo/preferences.jsonl"),
]
STEPS = (
    ("Collect the newspaper from its site (a stand-in on this machine, so without pauses)", SCRAPE),
    ("Clean its text", CLEAN),
    ("Train a tokenizer and cut the text into token shards", ["prepare.py", "config/demo.py"]),
    ("Train a language model from nothing", ["train.py", "config/demo.py"]),
    ("Let it write", ["sample.py", "out/demo", "--start=Ο φάρος", "--num_samples=2"]),
    ("Make questions and answers about the town", ["-m", "data.demo.chat_data"]),
    ("Teach the model to answer", ["finetune_chat.py", "config/demo_chat.py"]),
    ("Ask both models in words that nobody was taught", ["-m", "data.demo.ask", "out/demo", "out/demo-chat"]),
    ("Spoil the town's sentences", SPOIL),
    ("Teach the model to prefer the good ones", ["finetune_dpo.py", "config/demo_dpo.py"]),
)
RUNS = {"train.py": "demo", "finetune_chat.py": "demo-chat", "finetune_dpo.py": "demo-dpo"}  # of the steps that resume


def main() -> int:
    began = time.perf_counter()
    with stand_in() as site:
        status = tell(site.base_url)
    if not status:
        print(summary(time.perf_counter() - began))
    return status


def tell(site: str) -> int:
    """Run the steps, `site` being the newspaper's address; returns the exit status of the one that failed, or 0."""
    for number, (title, command) in enumerate(STEPS, start=1):
        run = RUNS.get(command[0])
        if run and (ROOT / "out" / run / "checkpoints" / "pointers.json").exists():
            command = [*command, "--init_from=resume"]
        command = [word.replace("SITE", site) for word in command]
        shown = " ".join(f'"{word}"' if " " in word else word for word in command)
        print(f"\n=== {number} of {len(STEPS)}: {title} ===\n$ python {shown}", flush=True)
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"})
        if done.returncode:
            print(f"\nthe demo stopped at step {number}; mend what the message says and run make demo again")
            return done.returncode
    return 0


def stand_in() -> StandIn:
    """The site, at its usual port if that is free: the addresses in the corpus are then always the same."""
    articles = read_articles(ROOT / "data/demo/articles.jsonl")
    try:
        return StandIn(articles, port=PORT)
    except OSError:
        return StandIn(articles)


def summary(seconds: float) -> str:
    """What was made, where it is, what to run next."""
    manifest = json.loads((ROOT / "data/demo/prepared/manifest.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    bits = [(r["val_bpb"], r["step"]) for r in records if "val_bpb" in r]
    best, step = min(bits)
    baseline = manifest["baselines"]
    return f"""
=== Done in {seconds:.0f} seconds ===
What was made                              Where it is
  the pages of the site as they came       data/demo/raw/
  what cleaning did, rule by rule          data/demo/datacard.md
  a corpus of {manifest["corpus"]["documents"]} articles                   data/demo/corpus.jsonl
  a tokenizer of {manifest["tokenizer"]["vocab_size"]:,} pieces               data/demo/prepared/tokenizer.model
  what it costs, word by word              data/demo/prepared/tokenizer_report.md
  {manifest["splits"]["train"]["tokens"]:,} training tokens in shards       data/demo/prepared/
  a language model (best at step {step})       out/demo/checkpoints/
  its curves and its diary                 out/demo/curves.png, metrics.jsonl, samples.jsonl
  a model that answers                     out/demo-chat/
  one that prefers good sentences          out/demo-dpo/

Bits per byte of held-out text: {bits[0][0]:.2f} untrained, {best:.2f} trained;
token frequencies alone give {baseline["unigram_bits_per_byte"]:.2f}, xz -9 gives {baseline["xz_bits_per_byte"]:.2f}.

What to run next
  .venv/bin/python sample.py out/demo-chat --chat
  .venv/bin/python serve.py out/demo-chat
  .venv/bin/python sample.py out/demo --start="Η γέφυρα" --temperature=0.5
  .venv/bin/python prepare.py --corpus=FOLDER_OF_TEXT_FILES --data_dir=data/mine --vocab_size=4000
  .venv/bin/python train.py config/rizospastis.py --dry_run"""


if __name__ == "__main__":
    sys.exit(main())
