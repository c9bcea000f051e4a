"""The measuring itself: what is parsed, counted and compared. No speed is asserted."""

import contextlib
import copy
import json
import sys

import pytest
import torch

from bench import cost, gpu_session, gradients, train_step
from bench.fp8 import use_fp8
from bench.gpu import medians
from bench.jobs import RandomSplit
from bench.kernels import NO_KERNEL, Kernel, attention_backend, describe
from bench.measure import Clock, Row, take_turns
from bench.options import GIVEN, read
from bench.variants import Variant, built_in, parse
from model import GPT, GPTConfig
from oracle.cli import UsageError, UserError
from oracle.config import load
from oracle.loader import Windows

TINY = [
    "--n_layer=1", "--n_head=2", "--n_embd=32", "--block_size=16", "--batch_size=4", "--total_batch_size=64",
    "--warmup_iters=2", "--device=cpu", "--dtype=float32", "--threads=1",
]  # fmt: skip


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_command_line_is_split_in_three():
    options = read(
        ["config/x.py", "--steps=7", "--compare", "--n_layer=2"], {"steps": "5", "compare": "", "rounds": "3"}
    )
    assert options.own == {"steps": "7", "compare": GIVEN, "rounds": "3"}
    assert (options.place, options.settings) == ("config/x.py", ["--n_layer=2"])
    assert options.number("steps") == 7 and read([], {}).place == "config/demo.py"
    with pytest.raises(UsageError, match="2 files given"):
        read(["a.py", "b.py"], {})
    for wrong in ("many", "-1", "1.5"):
        with pytest.raises(UsageError, match="--steps="):
            read([f"--steps={wrong}"], {"steps": "5"}).number("steps")


def test_variants_are_parsed_and_unknown_settings_left_out_with_a_note():
    found, notes = parse(
        "now:; big:--batch_size=8 --dtype=bfloat16;x:--warp=9;t:--compile_mode=max-autotune --n_layer=3"
    )
    assert [v.name for v in found] == ["now", "big", "t"]
    assert found[1].settings == ("--batch_size=8", "--dtype=bfloat16") and found[0].settings == ()
    assert found[2].own["compile_mode"] == "max-autotune" and found[2].settings == ("--n_layer=3",)
    assert len(notes) == 1 and "x" in notes[0] and "warp" in notes[0]


def test_fp8_linears_are_close_and_change_no_name():
    torch.manual_seed(0)
    plain = GPT(GPTConfig(block_size=32, vocab_size=512, n_layer=2, n_head=2, n_embd=64))
    fp8 = copy.deepcopy(plain)
    use_fp8(fp8)
    assert list(fp8.state_dict()) == list(plain.state_dict())
    tokens, gradients = torch.randint(512, (4, 32)), []
    for model in (plain, fp8):
        with torch.autocast("cpu", torch.bfloat16):
            model(tokens, tokens.roll(-1)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 1e-4 < error < 0.1
    with pytest.raises(ValueError, match="multiples of 16"):
        use_fp8(GPT(GPTConfig(block_size=8, vocab_size=64, n_layer=1, n_head=1, n_embd=8)))


@pytest.mark.parametrize("text", ["nothing", ":--a=1", "a:--batch_size", "a:b", "a:;a:", "a:--loop=other"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(UsageError, match="--compare"):
        parse(text)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("place", ["config/demo.py", "config/rizospastis.py"])
def test_the_built_in_variants_can_all_be_configured(place, device):
    found, _ = parse(built_in(load("train.py", [place]).config, device))
    assert len(found) > 4 and found[0] == Variant("as configured")
    for variant in found:
        config = variant.config(place, [])
        assert config.max_epochs == 0 and config.sample_prompts == ()


def test_nanogpts_loop_takes_whole_micro_batches_of_its_own_size():
    (variant,), _ = parse("n:--loop=nanogpt --batch_size=12")
    config = variant.config("config/rizospastis.py", [])
    assert config.batch_size == 12 and config.total_batch_size == 42 * 12 * 1024


def test_clock_counts_finished_steps_and_their_waiting():
    clock, moments = Clock(torch.device("cpu")), iter([0.0, 1.0, 3.0, 10.0, 10.0, 10.5, 14.0, 14.0, 15.0])
    clock.read = lambda: next(moments)
    for _ in range(3):
        clock.lap()
        with clock.waiting():
            pass
    assert clock.take() == ([10.0, 4.0], [2.0, 0.5])
    assert clock.take() == ([], [])


def test_a_row_by_hand():
    row = Row("a", tokens_per_step=100, rounds=[[1.0, 2.0], [4.0]], waited=0.7)
    slower = Row("b", tokens_per_step=300, rounds=[[12.0, 12.0], [16.0]])
    assert row.tokens_per_second == 50 and row.waiting == pytest.approx(0.1)
    assert row.ratio(row) == 1 and row.ratio(slower) == pytest.approx((8 + 4) / 2 / 3)
    even = Row("c", tokens_per_step=1, rounds=[[1.0 + i / 100 for i in range(101)]])
    assert even.spread == pytest.approx(0.8 / 1.5) and Row("d", 1, rounds=[[2.0]]).spread == 0


def test_over_nanogpt_compares_the_first_of_ours_with_the_same_number_format():
    variants, _ = parse(
        "a:;b:--batch_size=2;n:--loop=nanogpt;n2:--loop=nanogpt --batch_size=2;n16:--loop=nanogpt --dtype=bfloat16"
    )
    seconds = {"a": 1.0, "b": 0.5, "n": 2.0, "n2": 1.5, "n16": 0.1}
    rows = [Row(name, 10, rounds=[[second]]) for name, second in seconds.items()]
    assert train_step.against_nanogpt(variants, rows) == {"over_nanogpt": 2.0, "over_nanogpt_at_its_best": 1.5}
    assert (
        train_step.against_nanogpt(variants[:2], rows[:2]) == train_step.against_nanogpt(variants[2:], rows[2:]) == {}
    )


class Pretended:
    """A contender whose steps take what it is told."""

    def __init__(self, name, journal):
        self.name, self.journal, self.device = name, journal, torch.device("cpu")
        self.model = torch.nn.Linear(2, 2)
        self.model.init_weights = lambda: None
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.clock, self.tokens_per_step = Clock(self.device), 10
        self.config = load("train.py", ["config/demo.py"]).config

    def run(self, steps: int) -> None:
        self.journal.append((self.name, steps))
        if self.name == "broken":
            raise torch.OutOfMemoryError("too much")
        for _ in range(steps + 1):
            self.clock.lap()

    def fresh(self) -> None:
        pass


def turns(names, journal, seconds=float("inf")):
    return take_turns(
        [Variant(n) for n in names], lambda v: Pretended(v.name, journal), rounds=2, steps=3, warm_up=8,
        watch=lambda row: contextlib.nullcontext(), seconds=seconds,
    )  # fmt: skip


def test_variants_take_turns_and_a_failing_one_is_left_out():
    journal: list = []
    a, broken, b = turns(["a", "broken", "b"], journal)
    assert journal == [
        ("a", 8), ("a", 2), ("broken", 8), ("b", 8), ("b", 2),
        ("b", 2), ("b", 2), ("a", 2), ("a", 2),
    ]  # fmt: skip
    assert [len(r) for r in a.rounds] == [2, 2] and len(b.seconds) == 4
    assert broken.failure == "out of memory" and not broken.rounds


def test_nothing_begins_after_the_time_given():
    journal: list = []
    (row,) = turns(["a"], journal, seconds=-1)
    assert not journal and row.failure == "not reached in the time given"


def test_compare_from_end_to_end(prepared_dir, capsys):
    compare = "a:;nano:--loop=nanogpt --batch_size=3;loop:--optimizer=for-loop;odd:--batch_size=3;new:--warp=1"
    train_step.main(
        [f"--data_dir={prepared_dir}", *TINY, f"--compare={compare}", "--rounds=2", "--steps=4", "--warm_up=1"]
    )
    result = last_line(capsys)
    a, nano, loop, odd = result["variants"]
    assert a["ratio"] == 1 and a["steps"] == nano["steps"] == loop["steps"] == 4 and nano["micro_batch"] == 3
    assert a["tokens_per_second"] > 0 and a["mfu"] is None and 0 <= a["waiting"] < 1
    assert "whole number of micro-batches" in odd["failure"] and "warp" in result["left_out"][0]
    assert result["over_nanogpt"] > 0 and not result["random_tokens"]


def test_one_config_without_shards_and_with_a_peak(tmp_path, capsys):
    train_step.main([f"--data_dir={tmp_path}", *TINY, "--steps=2", "--warm_up=1", "--peak_tflops=0.001"])
    result = last_line(capsys)
    (only,) = result["variants"]
    assert result["random_tokens"] and only["mfu"] == pytest.approx(only["tflops"] / 0.001, rel=0.6) and only["mfu"] > 0


def test_profile_names_attention_and_writes_the_table(prepared_dir, tmp_path, capsys):
    path = tmp_path / "kernels.md"
    train_step.main([f"--data_dir={prepared_dir}", *TINY, f"--profile={path}", "--warm_up=1"])
    result = last_line(capsys)
    assert result["attention"] == "flash" and result["kernels"][0]["share"] > 0
    assert "| matrix products |" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kernel", "backend"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "cudnn"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, cutlass::bfloat16_t>>", "flash"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", "efficient"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", NO_KERNEL),
    ],
)
def test_attention_is_known_by_its_kernels(kernel, backend):
    assert attention_backend(["triton_poi_fused_add_0", kernel]) == backend
    assert Kernel(kernel, 1, 1.0).kind == ("matrix products" if backend == NO_KERNEL else "attention")


def test_shares_of_kernels_by_hand():
    shown = describe([Kernel("nvjet_a", 4, 750.0), Kernel("triton_b", 2, 250.0)], steps=2)
    assert "| matrix products | 75.0% |" in shown and "| compiled | 25.0% |" in shown and "0.5 ms a step" in shown
    assert NO_KERNEL in describe([], steps=2)


def test_clock_and_power_are_medians_and_nothing_else():
    assert medians("1980, 690.5\n1965, 700.1\n1950, 650.0\n") == (1965, 690.5)
    assert medians("1980, [N/A]\n") == (1980, 0) and medians("no devices were found\n") == (0, 0)


def test_random_tokens_can_be_cut_into_windows():
    split = RandomSplit(300)
    taken = Windows(split, 64, seed=1).take(5, 3)
    assert taken.shape == (3, 65) and taken.max() < 300 and split.lengths.sum() == split.tokens


def test_gradients_are_checked_in_every_mode(monkeypatch, capsys):
    small = [a for a in TINY if "n_layer" not in a] + ["--layers=1"]
    monkeypatch.setattr(
        gradients, "modes", lambda device: "ref:;float32, cut:--batch_size=2;float32, no:--batch_size=3"
    )
    gradients.main(["config/demo.py", *small])
    cut, impossible = last_line(capsys)["modes"]
    assert cut["right"] and cut["distance"] < 1e-5 and "micro-batches" in impossible["failure"]
    monkeypatch.setattr(gradients, "gradient", lambda v, *rest: torch.ones(3) * (2 if "cut" in v.name else 1))
    with pytest.raises(UserError, match="one large batch: float32, cut"):
        gradients.main(["config/demo.py", *small])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_mode_to_check_has_a_limit(device):
    found, _ = parse(gradients.modes(device))
    assert all(v.name.split(",")[0] in gradients.LIMITS for v in found[1:])


def test_a_session_trains_only_where_there_is_text(prepared_dir, tmp_path):
    own = [f"--out={tmp_path}", "--minutes=9"]
    with_text = gpu_session.stages(read(["config/demo.py", f"--data_dir={prepared_dir}", *own], gpu_session.OWN), 540)
    assert [s.name for s in with_text] == ["gradients", "compare", "kernels", "train", "report"]
    without = gpu_session.stages(read(["config/demo.py", f"--data_dir={tmp_path}", *own], gpu_session.OWN), 540)
    assert [s.name for s in without] == ["gradients", "compare", "kernels"]
    some = gpu_session.stages(read([*own, "--stages=kernels,gradients"], gpu_session.OWN, "config/demo.py"), 540)
    assert [s.name for s in some] == ["gradients", "kernels"]
    with pytest.raises(UsageError, match="no stage sleep"):
        gpu_session.stages(read(["--stages=sleep"], gpu_session.OWN), 540)
    train = next(s for s in with_text if s.name == "train")
    settings = load("train.py", train.command[2:]).config
    assert settings.max_iters == 300 and 0 < settings.max_minutes < 4 and settings.data_dir == str(prepared_dir)


def test_a_stage_ends_in_one_of_three_ways(tmp_path, capsys):
    def stage(name: str, code: str) -> gpu_session.Stage:
        return gpu_session.Stage(name, [sys.executable, "-c", code], 1.0)

    assert gpu_session.carry_out(stage("a", "print('ναι')"), tmp_path, 60) == "done"
    assert gpu_session.carry_out(stage("b", "raise SystemExit(3)"), tmp_path, 60) == "failed with status 3"
    assert gpu_session.carry_out(stage("c", "import time; time.sleep(60)"), tmp_path, 0.5) == "stopped after 0 s"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8").endswith("ναι\n") and "ναι" in capsys.readouterr().out


def test_a_full_machine_session_without_time_says_so(prepared_dir, tmp_path, capsys):
    with pytest.raises(UserError, match="not all is done: gradients, compare"):
        gpu_session.main(["config/demo.py", f"--data_dir={prepared_dir}", f"--out={tmp_path}", "--minutes=0"])
    stages = last_line(capsys)["stages"]
    assert set(stages) == {"gradients", "compare", "kernels", "train", "report"}
    assert all(s["ending"] == "no time left" for s in stages.values())


def test_cost_by_hand():
    job = cost.job_of("config/rizospastis.py")
    assert job.tokens == 9728 * 524_288
    found = {r["gpu"]: r for r in cost.rows(job, {"RTX4090": 1.0}, {"H200": 200_000.0})}
    assert found["RTX4090"]["hours"] == 30.1 and found["RTX4090"]["money"] == pytest.approx(30.14, abs=0.01)
    assert found["H200"]["source"] == "measured" and found["H200"]["hours"] == 7.1
    a100 = next(g for g in cost.GPUS if g.name == "A100")
    by_hand = 2.123e9 / 250e12 + 0.151e9 / 116e12 + 3.01e6 / (2.039e12 * 0.85) + 0.05e-6  # seconds a token
    assert cost.roofline(a100, job.shape) == pytest.approx(1 / by_hand, rel=0.01)


@pytest.mark.parametrize("word", ["RTX4090", "RTX4090=cheap", "H300=2", "H100=-1", "H100=nan", "H100=inf"])
def test_what_is_no_price_is_refused(word):
    with pytest.raises(UsageError, match="write GPU=NUMBER"):
        cost.numbers("--price", [word])


def test_the_page_has_the_table_of_the_defaults():
    page = cost.PAGE.read_text(encoding="utf-8")
    shown = cost.markdown(cost.rows(cost.job_of("config/rizospastis.py"), {}, {}))
    assert cost.with_table(page, shown) == page and shown in page
