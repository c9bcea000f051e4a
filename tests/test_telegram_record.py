"""From thumbs in chats to the next model: what the bot records goes through both trainers as it is."""

import asyncio
import json

import finetune_chat
import finetune_dpo
import telegram_bot
import train
from oracle.config import load
from tests.conftest import TINY, WORDS
from tests.fake_telegram import FakeTelegram
from tests.test_telegram import Bot, Echo

TRAINING = (
    "--batch_size=4", "--max_iters=4", "--learning_rate=0.001", "--warmup_iters=1", "--eval_interval=4", "--device=cpu",
    "--dtype=float32", "--chat_val_fraction=0.3", "--long_conversations=cut",
)  # fmt: skip


async def thumbs(fake, folder, record, chat, rating):
    """Somebody asks about every word, each time from the beginning, and presses the same thumb under every answer."""
    backend = Echo(lambda text: f"{text} {'λιμάνι' if rating == 'up' else 'ποτάμι'}")
    async with Bot(fake, folder, backend, record=record) as bot:
        fake.say(chat, "/settings")
        await bot.until(lambda: fake.texts(chat) and "…" not in fake.texts(chat))
        fake.press(chat, next(iter(fake.chats[chat])), "set:keep:True")
        await bot.until(lambda: fake.acknowledged)
        for word in WORDS[:12]:
            number = fake.say(chat, f"{word};")
            await bot.until(lambda word=word: any(f"{word};" in s.text and s.rows for s in fake.chats[chat].values()))
            fake.press(chat, max(fake.chats[chat]), f"{rating}:{number}")
            await bot.until(lambda: not fake.chats[chat][max(fake.chats[chat])].rows)
            fake.say(chat, "/reset")
            await bot.until(lambda: "ξεχάστηκε" in fake.texts(chat)[-1])


def test_what_people_rated_trains_the_next_model(prepared_dir, tmp_path, capsys):
    talks = tmp_path / "talks.jsonl"
    for chat, rating in ((7, "up"), (8, "down")):  # the bot is started anew between them
        config = load("telegram_bot.py", [f"--record={talks}", "--api_url=http://127.0.0.1/v1"]).config
        with FakeTelegram() as fake:
            fake._next_update += 1000 * chat
            record = telegram_bot.open_record(config)
            asyncio.run(asyncio.wait_for(thumbs(fake, tmp_path, record, chat, rating), 40))
    pairs = [json.loads(line) for line in (tmp_path / "talks-pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [pair["prompt"][0]["content"] for pair in pairs] == [f"{word};" for word in WORDS[:12]]
    assert all("λιμάνι" in p["chosen"][0]["content"] and "ποτάμι" in p["rejected"][0]["content"] for p in pairs)
    assert len(talks.read_text(encoding="utf-8").splitlines()) == 24

    base, chat = tmp_path / "base", tmp_path / "chat"
    train.main([f"--data_dir={prepared_dir}", f"--out_dir={base}", *TINY, "--block_size=48"])
    finetune_chat.main([f"--init_from={base}", f"--conversations={talks}", f"--out_dir={chat}", *TRAINING])
    dpo = [f"--pairs={tmp_path / 'talks-pairs.jsonl'}", f"--out_dir={tmp_path / 'dpo'}"]
    finetune_dpo.main([f"--init_from={chat}", *dpo, *TRAINING])
    said = capsys.readouterr().out
    assert "24 conversations" in said and "12 pairs" in said
