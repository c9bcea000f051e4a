# The newspaper's model learns to answer: one epoch on questions and answers about its own articles.
#
# kkOracle did this with synthetic pairs and one epoch. Make them with any OpenAI-compatible server, or without one:
#
#     python -m data.qa.make_pairs --corpus=data/rizospastis/corpus.jsonl --out=data/rizospastis/qa.jsonl --language=el \
#         --base_url=http://localhost:11434/v1 --model=NAME
#     python finetune_chat.py config/rizospastis_chat.py --dry_run
#     python finetune_chat.py config/rizospastis_chat.py
#     python sample.py out/rizospastis-chat --chat
#
# Watch three figures: val_loss on answers it was not taught, token_accuracy, and base_bpb, what it has forgotten.

init_from = "out/rizospastis"
out_dir = "out/rizospastis-chat"
conversations = "data/rizospastis/qa.jsonl"
chat_val_fraction = 0.02
pretrain_mix = 0.05  # one row in twenty is running text: that alone keeps most of what was learnt

max_epochs = 1
total_batch_size = 65_536  # 64 rows of 1,024 tokens, several conversations in each
batch_size = "auto"
loss_chunks = "auto"
learning_rate = 2e-5  # a fifteenth of pretraining's
lr_schedule = "linear"
warmup_iters = 50
weight_decay = 0.0

dtype = "bfloat16"
compile = True

eval_interval = 100
log_interval = 10
sample_prompts = ["Τι έγινε με την απεργία στα λιμάνια;", "Ποιος ήταν ο Γιάννης Ρίτσος;"]
max_new_tokens = 120
temperature = 0.7
