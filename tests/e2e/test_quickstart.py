"""The notebook of the documentation: at most 40 lines of code, executed as it stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from orchestrator.zoo import Zoo

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
LIMIT = 40
DEADLINE_S = 480


def test_it_has_at_most_forty_lines_of_code():
    lines = [line for cell in CELLS for line in cell.splitlines() if line.strip()]
    assert len(lines) <= LIMIT


def checkpoint(folder: Path) -> Path:
    """Write a checkpoint of transformers as small as one can be that still learns the rows."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["the", "was", "even", "in", ",", "great", "fine", "lovely", "superb", "awful", "poor"]
    words += ["sad", "weak"]
    tokens = [*special, *words, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(special)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.slow
def test_every_cell_runs_and_all_answers_are_equal(tmp_path):
    """In a process of its own, as a kernel would be."""
    script = "\n".join(
        [
            "import sys, json",
            f"cells = {CELLS!r}",
            "names = {}",
            "for cell in cells:",
            "    exec(compile(cell, 'quickstart', 'exec'), names)",
            "answers = names['orchestrator'].load('mood-int8').predict("
            "list(names['held_out'].text[:3]))",
            "told = [[a['label'], a['score']] for a in (row[0] for row in names['over_http'])]",
            "print(json.dumps({'accuracy': names['report'].metrics['accuracy'].value,",
            "    'rows': names['report'].rows, 'http': told,",
            "    'python': [[a.label, a.score] for a in answers]}))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CHECKPOINT": f"hf:{checkpoint(tmp_path / 'checkpoint')}",
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["rows"] == 380
    assert found["accuracy"] > 0.6
    for over_http, in_python in zip(found["http"], found["python"], strict=True):
        assert over_http[0] == in_python[0]
        assert abs(over_http[1] - in_python[1]) < 1e-5
    assert set(Zoo(tmp_path / "zoo").names()) == {"minilm", "mood", "mood-int8"}
