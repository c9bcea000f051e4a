# The demo's second half: the model that only continues the weekly learns to answer questions about it.
#
# 84 questions in some twenty-four wordings each, 2,012 conversations. One more wording of each is there to choose by: the
# settings below and the best checkpoint. The third paraphrase is neither taught nor chosen by: 65 to 70 of those 84, by
# seed, are answered with the fact. A million parameters that have read 225 KB of Greek know no synonyms, so what carries over to a
# new phrasing is what its words share with those that were taught. Everything else it knew goes: watch base_bpb rise
# from 1.4 to 3.0. Put prompt_loss_weight to 0.2 and it forgets less.
#
#     python -m data.demo.chat_data
#     python finetune_chat.py config/demo_chat.py         # two minutes
#     python -m data.demo.ask out/demo out/demo-chat      # before and after
#     python sample.py out/demo-chat --chat

init_from = "out/demo"
out_dir = "out/demo-chat"
conversations = "data/demo/chat.jsonl"
val_conversations = "data/demo/chat_val.jsonl"
long_conversations = "cut"

batch_size = 16  # twice the base model's: a new phrasing is understood far better
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
