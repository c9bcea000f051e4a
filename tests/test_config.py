"""Config files and command lines: everything wrong is reported at once, by name, before anything runs."""

from pathlib import Path

import pytest

from oracle.cli import UsageError
from oracle.config import FIELDS, from_dict, help_text, impossible, load, to_json, without_effect
from oracle.settings import SCRIPTS, Config

ROOT = Path(__file__).parents[1]


def problems(script: str, *argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(script, argv)
    return str(caught.value)


def config_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_file_then_command_line(tmp_path):
    path = config_file(tmp_path, "_half = 8\nn_layer = 2\nbatch_size = 2 * _half\nlearning_rate = 1\n")
    call = load("train.py", [path, "--n_layer=3", "--compile", "--dry_run"])
    assert (call.config.n_layer, call.config.batch_size, call.config.learning_rate) == (3, 16, 1.0)
    assert call.config.compile is True and call.dry_run
    assert type(call.config.learning_rate) is float


def test_all_typos_in_one_message_with_suggestions():
    message = problems("train.py", "--lerning_rate=1", "--n_layr=2")
    assert "--lerning_rate" in message and "did you mean learning_rate?" in message
    assert "--n_layr" in message and "did you mean n_layer?" in message


def test_a_typo_in_a_file_is_no_new_variable(tmp_path):
    message = problems("train.py", config_file(tmp_path, "lerning_rate = 1e-4\nn_layer = '12'\n"))
    assert "learning_rate" in message and "n_layer='12'" in message and "int" in message


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--n_layer=1e-4", "must be of type int"),
        ("--n_layer=0", "at least 1"),
        ("--learning_rate=nan", "must be"),
        ("--learning_rate=0", "above 0"),
        ("--bias=maybe", "bool"),
        ("--lr_schedule=cosin", "did you mean cosine?"),
        ("--batch_size", "write --batch_size="),
        ("--gradient_accumulation_steps=4", "total_batch_size"),
        ("--device=gpu", "cuda"),
        ("--sample_iters='x'", "list of int"),
        ("--temperature=1", "a setting of sample.py"),
        ("config/rizospasti.py", "did you mean config/rizospastis.py?"),
        ("--n_embd=100", "does not divide by n_head"),
        ("--total_batch_size=1000", "whole number of micro-batches"),
        ("--min_lr=1", "above learning_rate"),
    ],
)
def test_each_mistake_names_itself_and_the_way_out(argument, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert expected in problems("train.py", argument)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--max_iters=5e3", "max_iters", 5000),
        ("--max_iters=1_000", "max_iters", 1000),
        ("--grad_clip=2", "grad_clip", 2.0),
        ("--bias=False", "bias", False),
        ("--wandb_run_name=a=b", "wandb_run_name", "a=b"),
        ("--sample_prompts=Ο φάρος", "sample_prompts", ("Ο φάρος",)),
        ("--sample_prompts=['α','β']", "sample_prompts", ("α", "β")),
        ("--sample_iters=10,100", "sample_iters", (10, 100)),
        ("--sample_iters=7", "sample_iters", (7,)),
    ],
)
def test_values_are_read_as_people_write_them(argument, name, value):
    assert getattr(load("train.py", [argument]).config, name) == value


def test_a_broken_file_is_one_sentence_with_its_line(tmp_path):
    assert "line 2" in problems("train.py", config_file(tmp_path, "n_layer = 2\nn_head =\n"))
    assert "ZeroDivisionError" in problems("train.py", config_file(tmp_path, "n_layer = 1 // 0\n"))


def test_help_lists_every_setting_of_the_script():
    for script, groups in SCRIPTS.items():
        text = help_text(script)
        assert all(f"--{name}=" in text for name in FIELDS if any(name in g.__dataclass_fields__ for g in groups))


def test_help_stops_with_success(capsys):
    with pytest.raises(SystemExit) as stop:
        load("train.py", ["--help"])
    assert stop.value.code == 0 and "--learning_rate=float" in capsys.readouterr().out


def test_json_round_trip(tmp_path):
    import json

    config = Config(sample_prompts=("Ο φάρος",), n_layer=3)
    assert from_dict(json.loads(to_json(config)), "config.json") == config


def test_a_run_directory_is_a_config(tmp_path):
    (tmp_path / "config.json").write_text(to_json(Config(n_layer=7)), encoding="utf-8")
    call = load("sample.py", [str(tmp_path), "--temperature=0"])
    assert call.config.n_layer == 7 and call.config.out_dir == str(tmp_path) and call.config.temperature == 0
    assert "config.json" in problems("sample.py", str(ROOT / "tests"))


def test_settings_without_effect_warn():
    assert any("top_k" in w for w in without_effect(Config(temperature=0.0, top_k=5), "sample.py"))
    assert without_effect(Config(), "train.py") == []


def test_shipped_configs_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "config").glob("*.py")):
        for script in SCRIPTS:
            assert impossible(load(script, [str(path)]).config) == []
