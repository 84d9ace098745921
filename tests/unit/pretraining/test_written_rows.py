"""Instructions (sft) and parallel text (mt) from rows to a package that writes."""

import json
from itertools import product

import numpy as np
import pytest

from orchestrator.errors import ConfigError, InputError
from orchestrator.finetuning.generating.runner import Writer
from orchestrator.modeling.generation.config import GenerationConfig
from orchestrator.pretraining import runner
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.worker import pretrain
from orchestrator.storage import RunFolder
from orchestrator.zoo import Zoo

NAMES = {"one": "eins", "two": "zwei", "six": "sechs", "ten": "zehn", "five": "fuenf"}
CAUSAL = ["model.encoder.mask=causal", "model.target=lm"]
BOTH = [
    "model.target=lm", "model.embedding.parts=[word, pos]",
    "model.target_embedding={parts: [word, pos]}",
    "model.decoder={type: transformer, num_layers: 1, num_heads: 2}", "model.share_embedding=true",
]  # fmt: skip
KINDS = {"sft": CAUSAL, "mt": BOTH}


def write(folder, kind):
    """Write all pairs of two words, and their translation or a conversation about them."""
    rows = []
    for (a, first), (b, second) in product(NAMES.items(), repeat=2):
        source, target = f"{a} {b}", f"{first} {second}"
        chat = [("user", source), ("assistant", target)]
        row = {"source": source, "target": target}
        if kind == "sft":
            row = {"messages": [{"role": r, "content": t} for r, t in chat]}
        rows.append(row)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [f"data.data.source=files:{folder}/rows.jsonl", f"samples.type={kind}"]


def trained(alone, config):
    with RunFolder.open(config, runner.STAGE) as run:
        work = runner._Work(config, run)
        job = work.prepare()
        work.commit(pretrain(alone.within(run.path), job))
        return Zoo(config.run.zoo).get("tiny-model"), work.result().metrics


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_writes_what_its_rows_teach(alone, make_config, tmp_path, kind):
    config = make_config(
        *write(tmp_path, kind), *KINDS[kind], "model.hidden_size=32", "train.max_steps=150",
        "train.optimizer.learning_rate=0.01", "train.eval_every_steps=0",
        "train.checkpoint_every_steps=0",
    )  # fmt: skip
    assert f"{kind} for lm" in runner.check(config)
    package, metrics = trained(alone, config)
    assert metrics["loss"] < 0.5 * metrics["unigram_entropy"]
    assert metrics["unigram_entropy"] == pytest.approx(metrics["baseline_loss"], rel=0.01)
    assert package.manifest.task.modality == "text"
    writer = Writer(package)
    pairs = [("one two", "eins zwei"), ("ten six", "zehn sechs"), ("five one", "fuenf eins")]
    options = GenerationConfig(max_new_tokens=8)
    found = [writer.write(source, options)[0].strip() == target for source, target in pairs]
    assert np.mean(found) >= 2 / 3


def test_the_package_has_the_template_it_learned_with(alone, make_config, tmp_path):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    (tmp_path / "chat.jinja").write_text(template)
    rows = write(tmp_path, "sft")
    samples = f"samples={{type: sft, chat_template: {tmp_path / 'chat.jinja'}}}"
    bytes_ = "data.tokenizer={type: bpe, vocab_size: 300}"
    config = make_config(*rows[:1], *CAUSAL, samples, bytes_, "train.max_steps=1")
    package, _ = trained(alone, config)
    assert (package.path / "chat_template.jinja").read_text() == template
    again = make_config(*rows, *CAUSAL, f"data.tokenizer={{path: {package.path}}}")
    inputs = prepare_inputs(again, tmp_path / "cache")
    shown = inputs.corpus.processor.decode(inputs.train.collate(np.arange(1), 0)["input_ids"][0])
    assert "assistant: " in shown


def test_rows_and_model_must_fit(make_config, tmp_path):
    mt, sft = write(tmp_path, "mt"), write(tmp_path, "sft")
    with pytest.raises(ConfigError, match="'sft': the model has a decoder"):
        make_config(*sft, *BOTH)
    with pytest.raises(ConfigError, match="'mt': the model has no decoder"):
        make_config(*mt, *CAUSAL)
    with pytest.raises(ConfigError, match=r"has no sft rows\. Use files: or hf:"):
        make_config(*CAUSAL, "samples.type=sft", "data.data.source=builtin:pydoc/library")
    with pytest.raises(InputError, match="no column called prompt, input"):
        runner.check(make_config(*mt, *BOTH))
