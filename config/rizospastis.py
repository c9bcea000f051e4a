# Seventeen years of one newspaper, and nothing else.
#
# The issues of the Greek daily «Ριζοσπάστης» from 2008 to 2024, cleaned, are about 1.6 GB of text. A vocabulary of
# 50,000 pieces makes some 170 M tokens of them: a small library for a model of 354 M parameters, so it reads it
# thirty times over. The kkOracle project did this on one RTX 4090 in about 30 hours (47 k tokens/s) and saw the
# validation loss settle near 3.5 nats per token after epoch 20. Expect the same: 10.8 at step 0 (= ln 50304), below
# 6 within the first 300 steps, below 4 before the second epoch ends, then a long slow slope.
#
#     python -m data.rizospastis.scrape --contact=you@example.org    # two weeks, stopped and resumed as you like
#     python -m data.rizospastis.clean --raw=data/rizospastis/raw --out=data/rizospastis/corpus.jsonl
#     python prepare.py config/rizospastis.py       # minutes
#     python train.py config/rizospastis.py --dry_run
#     python train.py config/rizospastis.py         # 24 GB card: about 30 h; H200: about 7 h
#     python sample.py out/rizospastis --start="Η απεργία"
#
# Interrupted? Add --init_from=resume. Out of memory? Set batch_size to a smaller divisor of 512: the 0.5 M tokens per
# step stay, the micro-batches become more and smaller. No GPU? Try config/demo.py first.

out_dir = "out/rizospastis"
data_dir = "data/rizospastis/prepared"
corpus = "data/rizospastis/corpus.jsonl"

# Titles are left out, as in the original: headlines are capitals and puns, and a model that ends every paragraph
# with one is tiresome to listen to.
keep_titles = False
val_fraction = 0.005  # 0.5 % of half a million stories: 0.9 M tokens, ten seconds to evaluate

# 50,000 pieces: 1.4 tokens per Greek word against 1.9 with 8,000. The embedding has 50,304 rows, a multiple of 128
# that tensor cores like (a tenth off the time of the output layer); the 304 spare ones are never drawn.
tokenizer_type = "bpe"
vocab_size = 50_000
padded_vocab_size = 50_304
expected_tokens = 170_000_000  # only for a --dry_run before prepare.py has counted

# GPT-2 medium: 354 M parameters.
n_layer = 24
n_head = 16
n_embd = 1024
block_size = 1024
bias = True
# No dropout, as in the original run. For thirty passes over the same text 0.1 is the first thing to try.
dropout = 0.0

# 512 windows of 1024 tokens per step, whatever fits on the card at once. The run says what it picks; by arithmetic:
#
#     GPU memory   windows at once   loss in chunks   estimated GiB
#          24 GB                16                4            19.4
#          32 GB                16                1            22.6
#          48 GB                32                4            32.5
#          80 GB                32                1            39.2
#         141 GB                64                1            72.4
#
# Micro-batches above 32 gain a GPU next to nothing, and chunks should cost it one to three percent: so they are only for
# cards that reach 16 or 32 no other way. A number in place of either "auto" is taken as it is.
total_batch_size = 524_288
batch_size = "auto"
loss_chunks = "auto"
max_epochs = 30  # 9,728 steps, 5.1 B tokens

learning_rate = 3e-4
lr_schedule = "cosine"
warmup_iters = 200  # 100 M tokens: longer than needed at this rate, and free
min_lr = 3e-5
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95  # the shorter memory that large batches want
grad_clip = 1.0

dtype = "bfloat16"
compile = True  # a minute of patience for twice the speed

# An epoch is 324 steps: three evaluations in each, a checkpoint (4.2 GB with optimizer state) before every one.
eval_interval = 108
log_interval = 10
sample_prompts = ["Η απεργία", "Χτες το πρωί", "Ο ποιητής", "Οι εργαζόμενοι στα λιμάνια"]
sample_iters = [10, 100, 1000, 5000, 9000]
