"""Every kind of samples, with every target it is for: one batch is overfitted.

A batch whose labels do not belong to its inputs (cut, shifted, masked or padded differently) cannot
be.
"""

import json

import pytest
import torch

from orchestrator.data.samples.kinds import samples
from orchestrator.data.steps import StepSource
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.component import targets
from orchestrator.pretraining.inputs import prepare_inputs
from orchestrator.pretraining.objectives import labelled_targets, trained_targets

STEPS, ENOUGH = 400, 0.05
RATE = {"clr": 3e-3, "bilm": 3e-2}  # contrast collapses at larger steps
ALIKE = ("next", "neighbours")  # rows with equal beginnings have no certain continuation
SMALL = [
    "model.hidden_size=32",
    "model.max_position_embeddings=64",
    "data.tokenizer.vocab_size=310",
    "data.tokenizer.sentinels=8",
]
BLOCKS = "{type: transformer, num_layers: 1, num_heads: 2}"
DECODER = [
    "model.target=lm",
    "model.target_embedding={parts: [word, pos]}",
    f"model.decoder={BLOCKS}",
]
CAUSAL = ["model.target=lm", "model.encoder.mask=causal"]
EXAMPLES = "{source: 'builtin:%s', max_rows: %d}"
ROWS = f"data={{data: {EXAMPLES}, tokenizer: {{type: characters}}, block_size: 32}}"
PATCHES = "{type: %s, image_size: %d, patch_size: 4, channels: 1}"
WORDS = "{parts: [word, pos]}"
DUAL = f"model.encoder={{type: dual, first: {BLOCKS}}}"
SPEECH = "{type: speech, mel_bins: 8, kernels: [5], strides: [2]}"
SOUND = f"model.embedding={{parts: [{SPEECH}, sinusoidalpos]}}"
ROOM = "model.max_position_embeddings=300"


def streams(second):
    stack = f"{{type: dual, first: {WORDS}, second: {second}}}"
    return [f"model.embedding={{parts: [{stack}], layernorm: false, dropout: 0.0}}", DUAL]


def picture(part, side):
    return f"{{parts: [{PATCHES % (part, side)}, pos], layernorm: false}}"


TABLE = (
    "data={data: {source: 'files:%s', label_column: LABEL}, tokenizer: {vocab_size: 300},"
    " block_size: 16}"
)
PAIRS, TAGS, NAMES, NUMBERS = (
    TABLE.replace("LABEL", column) for column in ("label", "tags", "names", "numbers")
)
WRITTEN = TABLE.replace("LABEL", "text_b, text_column: text")
BOTH = f"{{type: word_patch, text: {WORDS}, image: {picture('patch', 16)}}}"
CASES = {
    "masked": [["model.target=mlm"]],
    "next": [CAUSAL],
    "prefix": [["model.target=lm", "model.encoder.mask=prefix"]],
    "neighbours": [["model.target=bilm", "model.encoder={type: bigru, num_layers: 1}"]],
    "pairs": [["model.target=[nsp, mlm]"], ["model.target=[sop, mlm]"]],
    "replaced": [["model.target=rtd"]],
    "spans": [DECODER],
    "denoising": [DECODER],
    "gaps": [DECODER],
    "labelled": [
        [
            "data={data: {source: 'builtin:digits', max_rows: 60}}",
            f"model.embedding={picture('patch', 8)}",
            "model.target={type: cls, num_labels: 10}",
        ],
        [PAIRS, "model.target=[sp, mlm]"],
        [PAIRS, *streams(WORDS), "model.target={type: siamese, dropout: 0.0}"],
        [TAGS, "model.target=[{type: tags, num_labels: 4}, mlm]"],
        [NAMES, "model.target={type: multilabel, num_labels: 2}"],
        [NUMBERS, "model.target={type: regression, num_labels: 2}"],
    ],
    "sft": [[WRITTEN, *CAUSAL]],
    "mt": [[WRITTEN, *DECODER]],
    "masked_patches": [
        [
            "data={data: {source: 'builtin:digits', max_rows: 60}}",
            f"model.embedding={picture('masked_patch', 8)}",
            "model.target={type: mim, num_codes: 6}",
        ]
    ],
    "image_text": [
        [ROWS % ("digit_scenes", 30), *streams(picture("patch", 16)), "model.target=clr"],
        [
            ROWS % ("digit_scenes", 30),
            f"model.embedding={{parts: [{BOTH}], layernorm: false, dropout: 0.0}}",
            "model.target=[itm, mlm]",
        ],
    ],
    "text_pairs": [
        [
            PAIRS,
            *streams(WORDS),
            "model.target={type: clr, first: {pooling: mean}}",
        ]
    ],
    "transcripts": [
        [ROWS % ("morse", 20), SOUND, ROOM, *DECODER],
        [ROWS % ("morse", 20), SOUND, ROOM, "model.target=ctc"],
    ],
}
WITHOUT_SAMPLES = {"balance", "vector", "span", "choice", "similarity", "states", "prompt"}
"""Targets without labels, and heads that only fine-tuning trains."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("overfit")


@pytest.fixture
def pairs(cache):
    rows = [
        {
            "text": f"what is {n} and {n}",
            "text_b": f"that is {2 * n}",
            "label": n % 3 % 2,
            "tags": f"what is {'odd' if n % 2 else 'even'} what what",
            "names": ["odd"] * (n % 2) + ["third"] * (n % 3 == 0),
            "numbers": [n / 10, n % 3],
        }
        for n in range(30)
    ]
    (cache / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return cache / "pairs.jsonl"


def test_every_kind_of_samples_and_every_target_is_tried(make_config):
    kinds = set(samples.names())
    assert set(CASES) == kinds
    tried = {
        target
        for kind, cases in CASES.items()
        for overrides in cases
        for target in labelled_targets(make_config(*small(kind, overrides, "x")).model)
    }
    assert tried == set(trained_targets())
    assert set(targets.names()) == tried | WITHOUT_SAMPLES


def small(kind, overrides, pairs):
    """Return the overrides of a case for a config of a tiny job."""
    given = [each.replace("%s", str(pairs)) for each in overrides]
    whole = any(each.startswith("data=") for each in given)
    sizes = [each for each in SMALL if not whole or not each.startswith("data.")]
    hertz = ", rate: 8000" if kind == "transcripts" else ""
    return [*sizes, *given, f"samples={{type: {kind}{hertz}}}"]


@pytest.mark.parametrize(
    ("kind", "overrides"), [(kind, case) for kind, cases in CASES.items() for case in cases]
)
def test_a_batch_is_learnt_by_heart(make_config, cache, pairs, kind, overrides):
    config = make_config(*small(kind, overrides, pairs))
    inputs = prepare_inputs(config, cache)
    samples = inputs.train
    rows = 1 if kind in ALIKE else 4
    (batch,) = StepSource(samples, rows, rows, 1).window(0)
    torch.manual_seed(1)
    model = build_model(inputs.model).eval()  # without dropout
    rate = RATE.get(config.model.target[0].type, 1e-2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(STEPS):
        found = model(batch)
        names = [target.name for target in config.model.target]
        losses = [found[f"loss.{name}"] / found[f"count.{name}"] for name in names]
        if max(losses) < ENOUGH:
            break
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert {name: round(loss.item(), 3) for name, loss in zip(names, losses, strict=True)} == {
        name: pytest.approx(0, abs=ENOUGH) for name in names
    }
