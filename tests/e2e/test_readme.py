"""The commands of README and docs: quick ones run as they stand, long ones up to their plan.

`make demo`, `ray job submit` and `serve` themselves run in the other files of this folder and in
`tests/integration/test_serving.py`.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES["README.md"] = README
BLOCKS = [
    block.replace("\\\n", " ")
    for page in PAGES.values()
    for block in re.findall(r"```(?:bash|console)\n(.*?)```", page, re.DOTALL)
]
LINES = sorted(
    {
        line.split("  #")[0].strip()
        for block in BLOCKS
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    }
)
PAPER = [line for line in LINES if line.startswith("orchestrator estimate ")]
JOBS = [line for line in LINES if "--config jobs/configs/" in line and line not in PAPER]


def run(words, cwd):
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=120, cwd=cwd, env=env, check=False
    )


def test_the_first_screen_has_both_commands():
    first_screen = "\n".join(README.splitlines()[:25])
    assert "make demo" in first_screen
    assert "make test" in first_screen
    targets = (ROOT / "Makefile").read_text()
    for line in LINES:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", targets, re.MULTILINE), line


def test_a_job_of_every_stage_is_shown():
    shown = {verb for line in JOBS for verb in re.findall(r"(?:jobs/|orchestrator )(\w+)", line)}
    assert shown >= {"pretrain", "benchmark", "select", "continual", "quantize"}


@pytest.mark.parametrize("line", JOBS)
def test_every_job_is_valid_up_to_its_plan(line, tmp_path, monkeypatch, capsys):
    """With `--check`; stages that need a package name the one that is missing in an empty zoo."""
    words = shlex.split(line.replace("$W", f"run.dir={tmp_path}/runs run.zoo={tmp_path}/zoo"))
    if "--" in words:
        words = words[words.index("--") + 1 :]
    program, first, *rest = words
    verb = Path(first).stem if program == "python" else first
    assert program in ("python", "orchestrator")
    assert program == "orchestrator" or (ROOT / first).is_file()
    if not any(word.startswith("run.zoo=") for word in rest):
        rest.append(f"run.zoo={tmp_path}/zoo")
    rest += [] if "--check" in rest else ["--check"]
    monkeypatch.chdir(ROOT)
    code = main([verb, *rest])
    shown = capsys.readouterr()
    told = {"pretrain": "parameters", "corpus": "documents"}.get(verb)
    assert code == (0 if told else 2), shown.out + shown.err
    assert (told in shown.out) if told else (str(tmp_path) in shown.err)
    assert list(tmp_path.iterdir()) == []


def test_clusters_on_paper(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (line,) = PAPER
    assert main(shlex.split(line)[1:]) == 0
    table = capsys.readouterr().out
    assert all(workers in table for workers in ("8", "64", "512"))


@pytest.mark.parametrize(
    "line", ["orchestrator doctor", "orchestrator zoo list", "orchestrator components"]
)
def test_quick_commands_run_as_they_stand(line, tmp_path):
    assert line in LINES
    shown = run(shlex.split(line), tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.strip()


COMMANDS = sorted(
    {tuple(shlex.split(line)) for line in LINES if line.startswith("orchestrator ")},
)
GROUPS = {"zoo", "matrix"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_verb_and_option_exists(words, capsys):
    head = list(words[1:3] if words[1] in GROUPS else words[1:2])
    with pytest.raises(SystemExit) as stopped:
        main([*head, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in shown, option


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_lead_somewhere(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name]):
        if not link.startswith("http"):
            assert (folder / link).exists(), f"{name}: {link}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_files_that_pages_name_exist(name):
    for found in re.findall(r"`((?:orchestrator|serving|jobs|dashboards)/[\w./]+)`", PAGES[name]):
        assert (ROOT / found).exists(), f"{name}: {found}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_functions_that_pages_name_exist(name):
    for file, found in re.findall(r"`([\w/]+\.py): (\w+)`", PAGES[name]):
        path = ROOT / file if (ROOT / file).exists() else ROOT / "orchestrator/continual" / file
        assert re.search(rf"^(def|class) {found}\b", path.read_text(), re.MULTILINE), (file, found)
