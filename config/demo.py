# The whole story in some five minutes on a laptop: a made-up weekly from a made-up town.
#
# «Η Φωνή του Μελισσόπορου» has twelve issues, ninety-six articles, some 40,000 tokens: a ten-thousandth of what a
# model needs to speak, and enough to watch one learn. At step 0 it babbles (7.6 nats per token = ln 2048). After a
# hundred steps it has Greek word endings, after five hundred it has the town: the bridge, the lighthouse, the seal.
# Validation stops improving well before the end while training goes on falling: that is overfitting, in full view,
# and the reason `sample.py` takes the best checkpoint and not the last.
#
#     make demo
#
# or, step by step:
#
#     python -m data.demo.standin                # the newspaper's site, on this machine; the rest in another terminal
#     python -m data.rizospastis.scrape --base_url=http://127.0.0.1:8000 --from=2018-03-01 --to=2018-05-31 --delay=0 \
#         --contact=you@example.org --out=data/demo/raw
#     python -m data.rizospastis.clean --raw=data/demo/raw --out=data/demo/corpus.jsonl
#     python prepare.py config/demo.py
#     python train.py config/demo.py
#     python sample.py out/demo --start="Ο φάρος"

out_dir = "out/demo"
data_dir = "data/demo/prepared"
corpus = "data/demo/corpus.jsonl"
val_fraction = 0.1  # of 96 articles; a real corpus needs far less

vocab_size = 2048  # more would leave each piece too rarely seen

n_layer = 4
n_head = 4
n_embd = 128
block_size = 128
dropout = (
    0.0  # it would help a little and take twice the time: a CPU spends as long on its random numbers as on products
)

batch_size = 8
max_iters = 1200
learning_rate = 2e-3  # small models like large steps
warmup_iters = 50
min_lr = 1e-4
weight_decay = 0.1

device = "cpu"
eval_interval = 200
log_interval = 50
sample_prompts = ["Ο φάρος της Πούντας", "Η δήμαρχος είπε"]
sample_iters = [10, 100, 400]

# How sample.py speaks unless told otherwise.
max_new_tokens = 80
temperature = 0.7
top_p = 0.95
