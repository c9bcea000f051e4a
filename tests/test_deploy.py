"""What `deploy/` says exists: settings, files, requirements."""

import re
import shlex

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
    packages = re.search(r"grep -E '\^\((.*)\)=='", text)
    assert packages
    for package in (*packages[1].split("|"), "torch"):
        assert re.search(rf"^{package}==[0-9.]+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
