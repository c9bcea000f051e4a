"""Every setting of every stage: name, type, default, bounds and meaning.

The names are nanoGPT's wherever it has one. A config file may set any of them; each script reads its own groups
(`SCRIPTS` below) and refuses the others on its command line. Reading, checking and describing: `oracle/config.py`.
"""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, meaning: str, **bounds: Any) -> Any:
    """A field with its meaning and its bounds (`minimum`, `above`, `maximum`, `choices`); `auto` allows that word."""
    return field(default=default, metadata={"meaning": meaning, **bounds})


@dataclass(frozen=True, kw_only=True)
class Run:
    out_dir: str = setting("out/run", "run directory: checkpoints, metrics.jsonl, samples, curves")
    data_dir: str = setting("data/prepared", "where prepare.py leaves tokenizer and shards, and train.py finds them")
    seed: int = setting(
        1337, "fixes initial weights, split, order of documents, dropout and samples", minimum=0, maximum=2**32 - 1
    )


@dataclass(frozen=True, kw_only=True)
class Corpus:
    corpus: str = setting(
        "", "a .jsonl file (id, date, section, title, text) or a folder of .txt; plain, .gz, .bz2 or .xz"
    )
    keep_titles: bool = setting(True, "put a document's title on its first line (kkOracle trained without titles)")
    text_chunk_chars: int = setting(
        50_000, "cut longer .txt files at blank lines into documents of this size; 0 keeps a file whole", minimum=0
    )
    skip_bad_lines: bool = setting(False, "count malformed JSON lines and go on, instead of stopping at the first")
    val_fraction: float = setting(0.01, "share of the documents held out for validation", above=0, maximum=0.5)
    near_duplicates: bool = setting(True, "find documents that nearly repeat each other, and keep them in one split")
    heldout_from: str = setting(
        "", "ISO day such as 2024-01-01: documents of that day or later form a split of their own, never trained on"
    )
    overwrite: bool = setting(False, "replace a data_dir that was prepared with other settings")
    workers: int = setting(0, "processes; 0 takes all cores (fewer for a small corpus)", minimum=0)
    shard_tokens: int = setting(100_000_000, "tokens per shard file (uint16: twice as many bytes)", minimum=1_000)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    tokenizer: str = setting(
        "",
        "an existing tokenizer instead of a new one: tokenizer.model, a run directory, or a model as init_from takes it;"
        " the other settings of tokenizers then have no effect",
    )
    tokenizer_type: str = setting("bpe", "SentencePiece model", choices=("bpe", "unigram", "char"))
    vocab_size: int = setting(16_000, "pieces, the special tokens among them (an upper bound for char)", minimum=300)
    character_coverage: float = setting(
        0.9999, "share of the text's characters that get a piece; rarer ones become bytes", above=0.9, maximum=1
    )
    tokenizer_sample_mb: int = setting(
        100, "megabytes of training text the tokenizer learns from, drawn evenly from the corpus", minimum=1
    )
    compare_tokenizers: bool = setting(True, "also train the rival (unigram or bpe) and report both on held-out text")


@dataclass(frozen=True, kw_only=True)
class Model:
    n_layer: int = setting(12, "transformer blocks", minimum=1)
    n_head: int = setting(12, "attention heads per block", minimum=1)
    n_embd: int = setting(768, "width", minimum=1)
    block_size: int = setting(1024, "context, in tokens", minimum=2)
    dropout: float = setting(0.0, "after embeddings, attention and MLP", minimum=0, maximum=0.9)
    bias: bool = setting(True, "biases in linear layers and layer norms, as in GPT-2")
    padded_vocab_size: int = setting(
        0, "rows of the embedding; 0 rounds the tokenizer's vocabulary up to a multiple of 128", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class Origin:
    init_from: str = setting(
        "scratch",
        "scratch: start anew; resume: go on from the run's last checkpoint; a run directory: its weights;"
        " gpt2 (-medium, -large, -xl), a Hugging Face GPT-2 folder or .safetensors file: those, with their tokenizer",
    )


@dataclass(frozen=True, kw_only=True)
class Training(Origin):
    max_iters: int = setting(0, "optimizer steps; 0 when max_epochs says how long", minimum=0)
    max_epochs: float = setting(0.0, "passes over the training split; 0 when max_iters says how long", minimum=0)
    expected_tokens: int = setting(0, "the corpus as --dry_run assumes it until prepare.py has counted it", minimum=0)
    total_batch_size: int = setting(0, "tokens per optimizer step; 0 means one micro-batch", minimum=0)
    batch_size: int = setting(
        12,
        "micro-batch: sequences that fit on the device at once; auto measures the fastest, or, when loss_chunks is auto"
        " too, goes by the GPU's memory",
        minimum=1,
        auto=True,
    )
    learning_rate: float = setting(6e-4, "peak", above=0)
    lr_schedule: str = setting("cosine", "from the peak down to min_lr", choices=("cosine", "linear", "constant"))
    warmup_iters: int = setting(10, "steps of linear rise to the peak", minimum=0)
    lr_decay_iters: int = setting(0, "step at which min_lr is reached; 0 means the last", minimum=0)
    min_lr: float = setting(0.0, "where the schedule ends", minimum=0)
    weight_decay: float = setting(0.1, "AdamW, on matrices only: never on biases and layer norms", minimum=0)
    beta1: float = setting(0.9, "AdamW", minimum=0, maximum=0.9999)
    beta2: float = setting(0.95, "AdamW", minimum=0, maximum=0.99999)
    grad_clip: float = setting(1.0, "clip the gradient's global norm; 0 switches clipping off", minimum=0)
    on_sick_step: str = setting(
        "skip",
        "a step whose loss or gradient is NaN or Inf, or whose loss is a spike, never changes the weights;"
        " after it, go on or stop the run",
        choices=("skip", "stop"),
    )
    spike_sigma: float = setting(
        6.0, "standard deviations above the mean of the last 128 losses that make a spike; 0 knows no spikes", minimum=0
    )
    patience: int = setting(0, "evaluations without improvement after which the run ends; 0 never", minimum=0)
    max_minutes: float = setting(
        0.0, "save and end with status 0 when this process has run so long; 0 sets no limit", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class Device:
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    dtype: str = setting(
        "auto",
        "of the matrix products; in training weights stay float32; int8 (weights) is for writing only, on a CPU",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
    )
    threads: int = setting(0, "CPU threads; 0 leaves the choice to PyTorch", minimum=0, maximum=1024)


@dataclass(frozen=True, kw_only=True)
class Speed:
    compile: bool = setting(False, "torch.compile model and loss; falls back with a warning where it cannot")
    loss_chunks: int = setting(
        1,
        "compute the loss in so many parts, which saves memory on small GPUs and takes a little time;"
        " auto goes by the GPU's memory",
        minimum=1,
        auto=True,
    )
    attention: str = setting(
        "auto",
        "kernel of scaled_dot_product_attention; auto is PyTorch's own choice, named when a run begins",
        choices=("auto", "cudnn", "flash", "efficient", "math"),
    )
    fsdp: bool = setting(
        False, "FSDP2: share weights, gradients and moments out among the ranks, for models that do not fit on one"
    )
    peak_tflops: float = setting(0.0, "the GPU's dense peak for MFU; 0 looks it up by name", minimum=0)


@dataclass(frozen=True, kw_only=True)
class Logging:
    eval_interval: int = setting(500, "steps between evaluations on the whole validation split", minimum=1)
    log_interval: int = setting(10, "steps between log lines", minimum=1)
    checkpoint_interval: int = setting(0, "steps between checkpoints; 0 means at every evaluation", minimum=0)
    keep_interval: int = setting(
        0, "steps between checkpoints that are kept for good; 0 keeps only the last and the best", minimum=0
    )
    sample_prompts: tuple[str, ...] = setting((), "texts completed during training and kept in samples.jsonl")
    sample_iters: tuple[int, ...] = setting(
        (10, 100, 1000, 5000, 10_000, 20_000), "steps at which they are (and at the end)"
    )
    wandb_log: bool = setting(False, "mirror metrics.jsonl to Weights & Biases")
    wandb_project: str = setting("nanooracle", "Weights & Biases project")
    wandb_run_name: str = setting("", "Weights & Biases run; empty takes the run directory's name")


@dataclass(frozen=True, kw_only=True)
class Conversations:
    conversations: str = setting(
        "", "a .jsonl file in the shape of OpenAI messages, ShareGPT, Alpaca, question/answer or prompt/completion"
    )
    val_conversations: str = setting("", "held-out conversations of their own; empty holds out a share")
    prompt_loss_weight: float = setting(
        0.0, "of the tokens that are not the assistant's, relative to its own", minimum=0, maximum=1
    )
    pretrain_mix: float = setting(
        0.0, "share of the rows that are running text from data_dir, against forgetting", minimum=0, maximum=0.9
    )
    neftune_alpha: float = setting(
        0.0, "noise on the embeddings while training (NEFTune), 5 to 15 where wanted", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Of what a fine-tune learns from: conversations, or pairs of answers."""

    chat_val_fraction: float = setting(
        0.05, "share of the conversations or pairs held out, by article or question", above=0, maximum=0.5
    )
    on_bad_line: str = setting(
        "error", "a line that holds none: stop there, or skip it (one in a hundred)", choices=("error", "skip")
    )
    long_conversations: str = setting(
        "drop", "those longer than the context: leave them out, or cut their ends off", choices=("drop", "cut")
    )


@dataclass(frozen=True, kw_only=True)
class Preferences:
    pairs: str = setting(
        "",
        "a .jsonl file of prompt, chosen, rejected (texts or messages), or Alpaca, ShareGPT, wrong/right with the two",
    )
    val_pairs: str = setting("", "held-out pairs of their own; empty holds out a share")
    dpo_loss: str = setting("sigmoid", "of a pair's margin", choices=("sigmoid", "hinge", "ipo"))
    beta: float = setting(0.1, "how strongly the model is held to the one it started from", above=0, maximum=100)
    label_smoothing: float = setting(
        0.0, "share of the pairs assumed to be the wrong way round (cDPO)", minimum=0, maximum=0.5
    )
    length_normalised: bool = setting(False, "margins per token; ipo has them so anyway")
    sft_weight: float = setting(
        1.0, "of the chosen answers' own loss, without which pairs that hardly differ ruin a model", minimum=0
    )
    dpop_lambda: float = setting(
        0.0, "penalty on chosen answers that become less likely (DPO-Positive), 5 to 50 where wanted", minimum=0
    )
    max_ppl_rise: float = setting(
        0.05, "the run ends when the held-out chosen answers' perplexity has risen by this share", minimum=0
    )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    max_new_tokens: int = setting(200, "tokens per completion", minimum=1)
    temperature: float = setting(0.8, "0 always takes the most likely token", minimum=0, maximum=100)
    top_k: int = setting(0, "only the k most likely tokens; 0 keeps all", minimum=0)
    top_p: float = setting(1.0, "only the fewest tokens whose probabilities reach p", above=0, maximum=1)
    min_p: float = setting(0.0, "only tokens at least so likely, relative to the likeliest", minimum=0, maximum=0.999)
    repetition_penalty: float = setting(1.0, "makes tokens that were there less likely", above=0, maximum=10)
    no_repeat_ngram: int = setting(0, "no n tokens in a row twice; 0 allows it", minimum=0)
    stop: tuple[str, ...] = setting((), "texts before which a completion ends")
    checkpoint: str = setting(
        "best", "which weights: the lowest validation loss, or the newest", choices=("best", "last")
    )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    start: str = setting("", "text to complete, or FILE:path; empty starts a new document")
    prompts_file: str = setting("", 'texts to complete: one a line, or a .jsonl file with a "prompt" in every line')
    num_samples: int = setting(3, "completions of each text", minimum=1)
    num_beams: int = setting(0, "search for the likeliest texts with so many beams instead of drawing", minimum=0)
    length_penalty: float = setting(1.0, "of the beams: 0 favours short texts, more than 1 long ones", minimum=0)


@dataclass(frozen=True, kw_only=True)
class Showing:
    chat: bool = setting(False, "a conversation in the terminal, with a model that was taught to answer")
    system: str = setting("", "instruction that stands before the conversation")
    json: bool = setting(False, "print a JSON line for each completion, with tokens and log-probabilities")
    logprobs: int = setting(1, "how many of the likeliest tokens --json names at each place", minimum=1, maximum=20)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    text: tuple[str, ...] = setting(
        (), "texts to score: a text file, a corpus.jsonl or a folder of either; write it several times for several"
    )
    stride: int = setting(
        0, "tokens from one scoring window to the next; less shows the model more context; 0 is half of it", minimum=0
    )
    eval_tokens: int = setting(
        0,
        "score about so many tokens of the run's own texts, in whole documents drawn by chance; 0 scores all",
        minimum=0,
    )
    language: str = setting("", "of probes and samples, such as el; empty goes by the validation text")
    probes: str = setting("", "a file of minimal pairs and cloze items; empty takes those of the language")
    questions: str = setting("", "a .jsonl file of questions and facts, put to a model that was taught to answer")
    eval_samples: int = setting(
        24, "texts written from nothing, measured for repetition and verbatim copies; 0 writes none", minimum=0
    )
    out: str = setting("", "folder for evaluation.json and evaluation.md; empty takes the first run's directory")


@dataclass(frozen=True, kw_only=True)
class Export:
    format: str = setting(
        "hf", "of which program: transformers, llama.cpp and Ollama, or both", choices=("hf", "gguf", "all")
    )
    gguf_type: str = setting("f16", "number format of a GGUF file's matrices", choices=("f32", "f16", "bf16", "q8_0"))
    export_dir: str = setting("", "folder for the exports hf and gguf-<type>; empty takes export in the run directory")
    verify: bool = setting(True, "compare ids, logits and text with ours, and write nothing that differs")
    push: str = setting("", "owner/name on the Hugging Face Hub to upload to")


@dataclass(frozen=True, kw_only=True)
class Answering:
    slots: int = setting(4, "answers written at once; each takes memory for a whole context", minimum=1, maximum=256)
    max_waiting: int = setting(16, "requests in the queue; one more is told to come again", minimum=0)
    max_answer_tokens: int = setting(512, "an answer ends there, whatever was asked for", minimum=1)
    answer_seconds: float = setting(120.0, "an answer ends there, its time in the queue counted", above=0)
    record: str = setting("", ".jsonl file for conversations that users rate and agree to give; they are told")


@dataclass(frozen=True, kw_only=True)
class Serving:
    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0 is everybody's, and then set an API key")
    port: int = setting(8000, "0 takes a free one", minimum=0, maximum=65535)
    engine: str = setting("own", "what computes: ours, or llama.cpp with a GGUF file", choices=("own", "llama"))
    gguf: str = setting("", "the file --engine=llama serves; empty takes the only .gguf in the run directory")
    rate_per_minute: int = setting(
        60, "requests per minute of one address, a third of them at once; 0 sets no limit", minimum=0
    )
    max_connections: int = setting(
        64, "open at a time; an address that is not this machine's gets a quarter", minimum=1
    )
    max_body_bytes: int = setting(65_536, "of a request", minimum=1)
    max_head_bytes: int = setting(8_192, "of a request's headers", minimum=256)
    read_seconds: float = setting(10.0, "a request must have arrived whole", above=0)
    idle_seconds: float = setting(15.0, "a connection may be silent between requests", above=0)
    write_seconds: float = setting(20.0, "a client must have taken a piece of its answer", above=0)
    trust_proxy: bool = setting(
        False, "a proxy of yours stands before it: believe the address it adds to X-Forwarded-For"
    )
    api_key_file: str = setting(
        "", "keys that requests must have one of, one a line, readable by you alone; or set NANOORACLE_API_KEY"
    )


@dataclass(frozen=True, kw_only=True)
class Telegram:
    token_file: str = setting("", "file of mode 0600 with the bot's token; or set TELEGRAM_BOT_TOKEN")
    state_file: str = setting("", "offset, histories, replies under way; empty: telegram.sqlite in the run directory")
    api_url: str = setting("", "let this server answer, such as http://127.0.0.1:8000/v1, instead of a run directory")
    api_model: str = setting("", "which of its models; empty takes the first it lists")
    allow: tuple[int, ...] = setting((), "numbers of the users it talks to; empty: everybody")
    max_input: int = setting(2_000, "characters of a message", minimum=1)
    history_tokens: int = setting(2_000, "of a conversation that are remembered", minimum=0)
    messages_per_minute: int = setting(10, "of one user, and of one group; pressed buttons count", minimum=1)
    tokens_per_minute: int = setting(4_000, "of one user, questions and answers", minimum=1)
    max_waiting_per_chat: int = setting(3, "questions of one chat in the queue", minimum=1)
    delete_webhook: bool = setting(False, "take the bot's updates away from a webhook, if it has one")
    grace_seconds: float = setting(20.0, "for answers that are being written when it is told to stop", minimum=0)
    poll_seconds: int = setting(50, "a request for updates waits so long", minimum=1, maximum=50)
    call_seconds: float = setting(10.0, "any other call to Telegram may take", above=0)
    bot_api: str = setting("https://api.telegram.org", "the Bot API's address; a local Bot API server has its own")
    log_text: bool = setting(False, "write messages and answers to the log: tell your users")


@dataclass(frozen=True, kw_only=True)
class Config(
    Run,
    Corpus,
    Tokenizer,
    Model,
    Training,
    Conversations,
    Examples,
    Preferences,
    Device,
    Speed,
    Logging,
    Drawing,
    Sampling,
    Showing,
    Evaluation,
    Export,
    Answering,
    Serving,
    Telegram,
):
    """One run through every stage, flat: `config.learning_rate`."""


SCRIPTS: dict[str, tuple[type, ...]] = {
    "prepare.py": (Run, Corpus, Tokenizer),
    "train.py": (Run, Model, Training, Device, Speed, Logging),
    "finetune_chat.py": (Run, Conversations, Examples, Model, Training, Device, Speed, Logging),
    "finetune_dpo.py": (Run, Preferences, Examples, Model, Training, Device, Speed, Logging),
    "sample.py": (Run, Origin, Device, Drawing, Sampling, Showing),
    "export.py": (Run, Drawing, Export),
    "evaluate.py": (Run, Device, Drawing, Evaluation),
    "serve.py": (Run, Device, Drawing, Answering, Serving),
    "telegram_bot.py": (Run, Device, Drawing, Answering, Telegram),
}
