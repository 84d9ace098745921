"""The life of published encoders from the shell: continued pre-training that is killed and goes on,
fine-tuning on CoNLL-2003, export, and the same figures in transformers.

CoNLL-2003 may not be passed on; the test runs where the data lie beside the checkout.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import transformers
from safetensors.torch import load_file

from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.tasks.kinds.tags import entities
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite
from tests.support.published_tokenizers import save_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONLL = ROOT.parent / "shared" / "data" / "conll03_cf"
STEPS, KILLED_AFTER = 300, 20
TOKENS = {
    "pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101,
    "eos_token_id": 102,
}  # fmt: skip
SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 128,
}  # fmt: skip
DEBERTA = {
    "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False,
    "type_vocab_size": 0, "pooler_hidden_size": 64,
}  # fmt: skip
MODELS = {
    "modernbert": lambda size: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**SIZES, vocab_size=size, local_attention=16, **TOKENS)
    ),
    "deberta": lambda size: transformers.DebertaV2ForMaskedLM(
        transformers.DebertaV2Config(**SIZES, **DEBERTA, vocab_size=size)
    ),
}


def rows_of(name, count, seen, longest=20):
    """Return sentences that no other part has: repeated rows are left out of an exam."""
    found = []
    with (CONLL / name).open() as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            words, tags = row["text_a"].split(), row["label"].split()
            if 3 < len(words) <= longest and tuple(words) not in seen and len(found) < count:
                seen.add(tuple(words))
                found.append((words, tags))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rows of CoNLL-2003 and their text, and a zoo with two new encoders that know its words."""
    if not CONLL.is_dir():
        pytest.skip(f"no data at {CONLL}")
    root = tmp_path_factory.mktemp("life")
    files = {"train": ("train_0.tsv", 1500), "dev": ("dev_0.tsv", 200), "test": ("test.tsv", 200)}
    seen: set[tuple[str, ...]] = set()
    parts = {name: rows_of(*each, seen) for name, each in files.items()}
    (root / "ner").mkdir()
    for name, rows in parts.items():
        lines = [f"{' '.join(words)}\t{' '.join(tags)}" for words, tags in rows]
        text = "\n".join(["text_a\tlabel", *lines]) + "\n"
        (root / "ner" / f"{name}.tsv").write_text(text)
    texts = [" ".join(words) for words, _ in rows_of("train_1.tsv", 2000, set())]
    (root / "texts.txt").write_text("\n".join(texts))
    words = [word.lower() for sentence, _ in parts["train"] for word in sentence]
    counts = Counter(word for word in words if word.isalpha())
    known = [word for word, _ in counts.most_common(1200)]
    for number, (family, make) in enumerate(MODELS.items()):
        size = save_tokenizer("bert", root / family, 128, words=known)
        torch.manual_seed(number)
        make(size).save_pretrained(root / family)
        import_checkpoint(Zoo(root / "zoo"), f"hf:{root / family}", ImportOptions())
    return root


def command(place, family, run):
    return [
        sys.executable, "jobs/pretrain.py", f"model.from={family}@latest",
        f"run={{name: {run}, dir: {place}/runs, zoo: {place}/zoo}}", f"package.name={run}",
        f"data={{data: {{source: 'files:{place}/texts.txt'}}, block_size: 64}}",
        f"train.max_steps={STEPS}", "train.checkpoint_every_steps=20", "train.log_every_steps=5",
        "train.optimizer.learning_rate=1e-3", "train.global_batch_size=16",
    ]  # fmt: skip


def tuning(place, family, package):
    return [
        sys.executable, "jobs/finetune.py", f"package={package}", f"output={family}-ner",
        f"data.source=files:{place}/ner", "task.type=tags", "train.epochs=4",
        f"run={{dir: {place}/runs, zoo: {place}/zoo}}", "train.learning_rate=2e-3",
        "train.exportable=true", f"cache={place}/cache",
    ]  # fmt: skip


def shell(arguments, **options):
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return {"args": arguments, "cwd": ROOT, "env": env, "text": True, **options}


def killed(arguments, log, checkpoints):
    """Kill a job and its Ray once it has a checkpoint after some steps."""
    with log.open("w") as output:
        process = subprocess.Popen(
            **shell(arguments, stderr=output, stdout=output, start_new_session=True)
        )
    deadline = time.monotonic() + 240
    try:
        while not any(
            int(path.name[5:]) >= KILLED_AFTER for path in checkpoints.glob("step-" + "[0-9]" * 8)
        ):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for each in children:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(children, timeout=20)
    return process.wait(20)


def result_of(arguments):
    done = subprocess.run(**shell(arguments, capture_output=True, timeout=400), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def their_tags(folder, rows):
    """Tag the words of rows as transformers does, each by its first token, up to the limit."""
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for words, _ in rows:
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        owners = encoded.word_ids()
        first = [owners.index(place) for place in range(len(words)) if place in owners]
        found.append([model.config.id2label[best[token]] for token in first])
    return found


def span_f1(found, rows):
    pairs = [(set(entities(a)), set(entities(b))) for a, (_, b) in zip(found, rows, strict=True)]
    right = sum(len(a & b) for a, b in pairs)
    return 2 * right / sum(len(a) + len(b) for a, b in pairs)


@pytest.mark.parametrize("family", list(MODELS))
def test_a_published_encoder_lives_on(place, family):
    run = f"{family}-on"
    once = command(place, family, run)
    check = subprocess.run(
        **shell([*once, "--check"], capture_output=True, timeout=120), check=True
    )
    assert f"weights of {family}/v0001, step 0, no new heads" in check.stdout
    code = killed(once, place / f"{family}.log", place / "runs" / run / "checkpoints")
    assert code == -signal.SIGKILL
    assert f"{run}" not in {package.name for package in Zoo(place / "zoo").packages()}
    resumed = result_of(once)
    whole = result_of(command(place, family, f"{family}-whole"))
    zoo = Zoo(place / "zoo")
    ours, theirs = (
        load_file(zoo.get(each["package"]).path / "model.safetensors") for each in (resumed, whole)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    before = load_file(zoo.get(family).path / "model.safetensors")
    assert not all(torch.equal(ours[name], before[name]) for name in before)

    tuned = result_of(tuning(place, family, run))
    package = zoo.get(tuned["package"])
    suite = read_suite(package)
    exam = suite.exams[suite.default]
    export_package(package, place / f"{family}-out")
    with (place / "ner" / "test.tsv").open() as file:
        next(file)
        rows = [tuple(part.split(" ") for part in line.rstrip("\n").split("\t")) for line in file]
    f1 = span_f1(their_tags(place / f"{family}-out", rows), rows)
    print(f"{family}: span F1 {f1:.4f}, ours {exam.metrics['span_f1'].value:.4f}")
    assert f1 > 0.2
    assert exam.metrics["span_f1"].value == pytest.approx(f1, abs=1e-12)
    original = (place / family / "tokenizer.json").read_bytes()
    assert (place / f"{family}-out" / "tokenizer.json").read_bytes() == original
