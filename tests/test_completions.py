"""Completion of the commands' words, in a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = {"fawa": "fawa.client.command", "fawad": "fawa.cli"}
#: Calls what bash was told to call for the command, and prints what it answers.
COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completions")
    found = {}
    for name, module in MODULES.items():
        command = [sys.executable, "-m", module, "completions", "bash"]
        path = folder / name
        path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found[name] = path
    return found


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("fawa ", {"greet", "send", "receive", "link", "delete", "board", "completions"}),
        ("fawa gr", {"greet"}),
        ("fawa send --enc", {"--encrypt"}),
        ("fawa greet --mode b", {"bidi"}),
        ("fawa completions ", {"bash", "zsh", "tcsh"}),
        ("fawad do", {"doctor"}),
        ("fawad --tls-", {"--tls-cert", "--tls-key"}),
        ("fawad --log-level w", {"warning"}),
    ],
)
def test_words_are_completed(scripts: dict[str, Path], line: str, completed: set[str]) -> None:
    words = line.split(" ")
    bash = ["bash", "-c", COMPLETE, "bash", str(scripts[words[0]]), *words]
    ended = subprocess.run(bash, capture_output=True, text=True, timeout=60, check=True)
    assert {
        word for word in ended.stdout.splitlines() if not word.startswith("-") or "-" in line
    } >= completed
    assert ended.stderr == ""


def test_paths_are_completed(scripts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "fawa.pem").touch()
    bash = ["bash", "-c", COMPLETE, "bash", str(scripts["fawad"]), "fawad", "--tls-cert", f"{tmp_path}/fa"]
    ended = subprocess.run(bash, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == [f"{tmp_path}/fawa.pem"]


@pytest.mark.parametrize("name", MODULES)
def test_an_unknown_shell(name: str) -> None:
    command = [sys.executable, "-m", MODULES[name], "completions", "cmd.exe"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "invalid choice: 'cmd.exe'" in ended.stderr
