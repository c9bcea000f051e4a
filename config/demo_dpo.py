# The demo's last lesson: to prefer the town's sentences to misspelt copies of them.
#
#     python -m data.preferences.corrupt --corpus=data/demo/corpus.jsonl --language=el --prompt_words=8 --chosen_words=16 \
#         --per_document=6 --out=data/demo/preferences.jsonl
#     python finetune_dpo.py config/demo_dpo.py
#
# A model this small learns which endings and accents a word has from some hundred pairs. The log says what it cost:
# ppl/chosen, the perplexity of the good texts, beside accuracies/raw, how often they are the likelier ones.

init_from = "out/demo-chat"
out_dir = "out/demo-dpo"
pairs = "data/demo/preferences.jsonl"
chat_val_fraction = 0.15

batch_size = 16  # 8 rows of chosen texts, 8 of rejected ones
max_iters = 60
learning_rate = 1e-4
warmup_iters = 5
weight_decay = 0.0

device = "cpu"
eval_interval = 20
log_interval = 20
