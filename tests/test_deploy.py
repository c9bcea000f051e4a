"""What `deploy/` says exists: settings, files, requirements."""

import re
import shlex
import subprocess
import sys

import pytest

from oracle.config import names_of
from oracle.settings import SCRIPTS
from tests.runs import ROOT

DEPLOY = ROOT / "deploy"


def commands() -> list[tuple[str, str]]:
    """(script, its arguments) wherever deploy/ starts one."""
    found = []
    for path in sorted(DEPLOY.iterdir()):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"(serve\.py|telegram_bot\.py|sample\.py) ([^\n`#]+)", text)
    return found


def test_the_scripts_are_started_with_settings_they_have():
    assert {script for script, _ in commands()} == {"serve.py", "telegram_bot.py", "sample.py"}
    for script, arguments in commands():
        names = [a[2:].partition("=")[0] for a in shlex.split(arguments) if a.startswith("--")]
        assert set(names) <= set(names_of(script)), (script, arguments)


@pytest.mark.parametrize("unit", ["nanooracle-web.service", "nanooracle-telegram.service"])
def test_units_start_scripts_that_exist_with_no_secret_in_sight(unit):
    text = (DEPLOY / unit).read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=((?:.*\\\n)*.*)", text, re.MULTILINE)
    scripts = re.findall(r"/opt/nanooracle/(\w+\.py)", start)
    assert len(scripts) == 1 and (ROOT / scripts[0]).exists() and scripts[0] in SCRIPTS
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "Restart=on-failure"):
        assert f"\n{line}\n" in text
    credential = re.search(r"^LoadCredential=(\w+):/etc/nanooracle/", text, re.MULTILINE)
    assert credential and f"${{CREDENTIALS_DIRECTORY}}/{credential[1]}" in start


def test_the_image_copies_what_exists_and_installs_what_is_pinned():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in allowed
    packages = re.search(r"grep -hE '\^\((.*)\)==' requirements\*\.txt", text)
    assert packages
    pinned = "".join((ROOT / name).read_text(encoding="utf-8") for name in copied if name.startswith("requirements"))
    for package in (*packages[1].split("|"), "torch"):
        assert re.search(rf"^{package}==[0-9.]+", pinned, re.MULTILINE)
    assert "-r requirements" not in text  # which would bring all the others


def test_the_image_installs_what_its_scripts_import():
    """The plots, the crawler, the tracker and the exporters stay out."""
    code = """
import sys
for name in ("matplotlib", "wandb", "bs4", "protego", "gguf", "huggingface_hub", "transformers"):
    sys.modules[name] = None  # as if it were not installed
import sample, serve, telegram_bot
import oracle.record, oracle.telegram_loop, oracle.worker  # imported where they are used
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_moves_secrets_before_it_copies_and_copies_no_conversations():
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    steps = [text.index(step) for step in ("shred -u token.txt", "git archive HEAD", "cd /opt/nanooracle")]
    assert (
        steps == sorted(steps) and "cp -r . " not in text and "rm -f /opt/nanooracle/out/chat/telegram.sqlite" in text
    )
