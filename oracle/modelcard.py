"""A model card in the form of the Hugging Face Hub, where it is called README.md.

Figures are the run's own. The licence is for a person to choose: a card that was edited is never overwritten.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from oracle.cli import UserError
from oracle.files import write_text
from oracle.history import History, number
from oracle.logbook import duration, short
from oracle.markdown import literal, shortened, table

CARD, NEW_CARD = "MODEL_CARD.md", "MODEL_CARD.new.md"
MARK = "<!-- oracle.report "  # followed by the hash of everything above it
OPTIMIZER = (
    "learning_rate",
    "lr_schedule",
    "warmup_iters",
    "weight_decay",
    "beta1",
    "beta2",
    "grad_clip",
    "dropout",
    "seed",
)


def write(folder: Path, text: str) -> Path:
    """Write the card, beside the one that is there if a person has changed that. Returns its path."""
    for path in (folder / CARD, folder / NEW_CARD):
        if not path.exists() or _untouched(path.read_text(encoding="utf-8")):
            write_text(path, f"{text}{MARK}{_hash(text)} -->\n")
            return path
    raise UserError(f"{folder}: {CARD} and {NEW_CARD} have both been edited; merge them into one, or move one away")


def _untouched(text: str) -> bool:
    body, mark, rest = text.rpartition(MARK)
    return bool(mark) and rest.startswith(_hash(body))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def card(run: History, language: str | None, license: str | None, exported: Sequence[str] = ()) -> str:
    """The card of a run. `language` and `license` override what the data card says, and what nobody has said.

    `exported` is, in Markdown lines, how to run it where it was exported to; the card is then one for transformers.
    """
    sections = [
        ("Intended use", _use(run, exported)),
        ("Limits", _limits(run)),
        ("What it was trained on", _data(run)),
        ("How it was trained", _training(run)),
        ("Evaluation", _evaluation(run)),
    ]
    library = "transformers" if exported else "nanooracle"
    lines = [*_front_matter(run, language, license, library), "", f"# {literal(run.name)}", "", *_opening(run), ""]
    for title, section in sections:
        lines += [f"## {title}", "", *section, ""]
    return "\n".join(lines)


def _front_matter(run: History, language: str | None, license: str | None, library: str) -> list[str]:
    language = language or (run.datacard or {}).get("language")
    return [
        "---",
        f"language: {json.dumps(language)}" if language else "language: und  # fill in, such as el",
        f"license: {json.dumps(license)}" if license else "license: unknown  # yours to choose, such as cc-by-4.0",
        "pipeline_tag: text-generation",
        f"library_name: {library}",
        "tags: [gpt2, trained-from-scratch]",
        "---",
    ]


def _opening(run: History) -> list[str]:
    c = run.settings
    size = f" of {short(run.parameters)} parameters" if run.parameters else ""
    what = f"{run.manifest['corpus']['documents']:,} documents" if run.manifest else "one corpus"
    lines = [
        f"A GPT-2{size} ({c['n_layer']} layers, {c['n_head']} heads, {c['n_embd']} wide, context {c['block_size']:,}"
        f" tokens), trained from random weights on {what} and on nothing else, with a tokenizer learnt from the same text."
    ]
    if run.samples:
        last = run.samples[-1]
        prompt = literal(last["prompt"]) or "(a new document)"
        lines += ["", f"> **{prompt}** {literal(shortened(last['text'], 400))}"]
    return lines


def _use(run: History, exported: Sequence[str]) -> list[str]:
    return [
        "To continue a text in the manner of its corpus; to study how a language model learns from a limited text; as a"
        " base for fine-tuning.",
        "",
        *(exported or ("```sh", f'python sample.py {run.folder.as_posix()} --start="…"', "```")),
    ]


def _limits(run: History) -> list[str]:
    dates = [(run.datacard or {}).get("kept", {}).get(key) for key in ("first_date", "last_date")]
    until = f" It knows nothing after {dates[1]}." if dates[1] else ""
    epochs = run.epoch(run.best or run.training[-1])
    times = (
        f" It saw every training text about {epochs:.1f} times and may repeat passages word for word." if epochs else ""
    )
    return [
        "- It writes what is likely, not what is true: names, figures and quotations are invented as readily as remembered."
        f"{until}",
        f"- It has the opinions, the omissions and the prejudices of its corpus, and no other.{times}",
        f"- It sees the last {run.settings['block_size']:,} tokens and no more.",
        "- It was not taught to answer questions, to follow instructions or to decline; not for decisions about people.",
    ]


def provenance(run: History) -> list[tuple[str, str]]:
    """What a cleaner's data card says of the text: (what, literal Markdown)."""
    card = run.datacard or {}
    kept, read = card.get("kept", {}), card.get("read", {})
    facts = [(name, literal(str(card[key]))) for name, key in _PROVENANCE if card.get(key)]
    if kept.get("first_date"):
        facts.append(("dates", f"{kept['first_date']} to {kept['last_date']}"))
    if number(kept.get("documents")) is not None and read.get("documents"):
        share = kept["documents"] / read["documents"]
        facts.append(
            ("kept by the cleaning", f"{kept['documents']:,} of {read['documents']:,} documents ({share:.1%})")
        )
    return facts


_PROVENANCE = (("name", "name"), ("source", "source"), ("licence of the text", "licence"), ("language", "language"))


def _data(run: History) -> list[str]:
    if run.manifest is None:
        return ["Not recorded."]
    corpus, tokenizer, splits = run.manifest["corpus"], run.manifest["tokenizer"], run.manifest["splits"]
    facts = [
        *provenance(run),
        ("size", f"{corpus['documents']:,} documents, {corpus['bytes']:,} bytes"),
        ("training", f"{splits['train']['documents']:,} documents, {splits['train']['tokens']:,} tokens"),
        ("held out", f"{splits['val']['documents']:,} documents, {splits['val']['tokens']:,} tokens, chosen by a hash of the text"),
        ("tokenizer", f"SentencePiece {tokenizer['type']}, {tokenizer['vocab_size']:,} pieces"),
    ]  # fmt: skip
    return [f"- {name}: {value}" for name, value in facts]


def _training(run: History) -> list[str]:
    last = max((*run.training, *run.evaluations), key=run.tokens)
    epochs = f", {run.epoch(last):.2f} epochs" if run.tokens_per_epoch else ""
    on = ", ".join(f"{name} {value}" for name, value in run.machine.items()) or "a machine that was not recorded"
    return [
        f"{last['step']:,} steps of {run.tokens_per_step:,.0f} tokens: {short(run.tokens(last))} tokens{epochs}, in"
        f" {duration(run.clock.seconds)} on {literal(on)}. AdamW, no weight decay on biases and layer norms.",
        "",
        *table(["setting", "value"], [[name, literal(str(run.settings[name]))] for name in OPTIMIZER]),
    ]


def _evaluation(run: History) -> list[str]:
    """The best checkpoint, and the baselines on the same text."""
    if run.best is None:
        return ["Not evaluated."]
    best = run.best
    rows = [[f"this model, step {best['step']:,}", *(_figure(best.get(key), form) for key, form in _METRICS)]]
    rows += [[name, f"{value:.4f}", "", ""] for name, value in run.baselines.items()]
    return [
        *table(["on the held-out text", "bits per byte", "nats per token", "perplexity per token"], rows),
        "",
        "The whole held-out split, in bits per UTF-8 byte of its text; ends of text are scored, beginnings are not."
        " Figures per token do not compare with models that have another tokenizer.",
    ]


_METRICS = (("val_bpb", ".4f"), ("val_loss", ".4f"), ("val_perplexity", ",.2f"))


def _figure(value: object, form: str) -> str:
    found = number(value)
    return "not recorded" if found is None else format(found, form)
