# To write without mistakes: the answering model, shown its own newspaper's sentences beside spoilt copies of them.
#
#     python -m data.preferences.corrupt --corpus=data/rizospastis/corpus.jsonl --language=el --limit=100000 \
#         --out=data/rizospastis/preferences.jsonl
#     python finetune_dpo.py config/rizospastis_dpo.py --dry_run
#     python finetune_dpo.py config/rizospastis_dpo.py
#     python sample.py out/rizospastis-dpo --chat
#
# Watch two figures. accuracies/raw, the share of held-out pairs whose good text is the likelier one, is high before
# anything is learnt and should rise; ppl/chosen must not: a model can tell good from spoilt by finding both unlikely.
# The run ends by itself when it has risen by 5 %.

init_from = "out/rizospastis-chat"
out_dir = "out/rizospastis-dpo"
pairs = "data/rizospastis/preferences.jsonl"
chat_val_fraction = 0.01  # of 100,000: a thousand pairs, and some of every kind of error

dpo_loss = "sigmoid"
beta = 0.1
sft_weight = 1.0  # holds the good texts where they were; 0 is the DPO of the paper
max_ppl_rise = 0.05

# 64 rows a step, 32 of chosen texts and 32 of rejected ones, each holding several pairs.
batch_size = 16
total_batch_size = 65_536
max_epochs = 1

learning_rate = 5e-6  # a hundredth of pretraining's: the model is to change its mind, not to learn anew
lr_schedule = "linear"
warmup_iters = 20
weight_decay = 0.0
dropout = 0.0

dtype = "bfloat16"
compile = True

eval_interval = 50
log_interval = 5
sample_prompts = ["Ποιοι απεργούν σήμερα;", "Γράψε δυο λόγια για την ακρίβεια."]
max_new_tokens = 120
temperature = 0.7
top_p = 0.95
