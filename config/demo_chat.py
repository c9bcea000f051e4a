# The demo's second half: the model that only continues the weekly learns to answer questions about it.
#
# 84 questions in ten wordings each, 840 conversations; the third paraphrase of each question is taught to nobody: 67 of
# those 84 are answered with the fact. A million parameters that have read 225 KB of Greek know no synonyms, so what
# carries over to a new phrasing is what its words share with those that were taught. Everything else it knew goes:
# watch base_bpb rise from 1.4 to 2.9. Put pretrain_mix to 0.1 and it forgets less and answers a little worse.
#
#     python -m data.demo.chat_data
#     python finetune_chat.py config/demo_chat.py         # a minute
#     python -m data.demo.ask out/demo out/demo-chat      # before and after
#     python sample.py out/demo-chat --chat

init_from = "out/demo"
out_dir = "out/demo-chat"
conversations = "data/demo/chat.jsonl"
val_conversations = "data/demo/chat_heldout.jsonl"
long_conversations = "cut"

batch_size = 8
max_iters = 600
learning_rate = 2e-3
warmup_iters = 20
weight_decay = 0.1

device = "cpu"
eval_interval = 200
log_interval = 100
sample_prompts = ["Πόσο έβρεξε στην πλημμύρα του Φεβρουαρίου;", "Πώς λένε τον σκύλο που βρήκε τη φώκια;"]

# How sample.py answers.
max_new_tokens = 60
temperature = 0.3
