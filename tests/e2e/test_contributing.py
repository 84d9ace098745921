"""The recipes of CONTRIBUTING.md run as they stand, each in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### (.+?)\n(.*?)(?=^###? |\Z)", TEXT, re.MULTILINE | re.DOTALL)
RECIPES = {title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in SECTIONS}


def test_there_is_a_recipe_for_every_extension_point():
    wanted = (
        "encoder", "family", "sample kind", "task kind", "proxy", "policy", "continual part",
        "back end", "serving route", "file format",
    )  # fmt: skip
    titles = " ".join(RECIPES)
    assert [word for word in wanted if word not in titles] == []
    assert [title for title, code in RECIPES.items() if not code] == []


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs(title):
    for code in RECIPES[title]:
        shown = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
