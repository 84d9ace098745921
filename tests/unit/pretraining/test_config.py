"""Pre-training settings: what does not fit together is said all at once."""

import pytest

from orchestrator.config import load_config
from orchestrator.errors import ConfigError
from orchestrator.pretraining import objectives
from orchestrator.pretraining.config import PretrainConfig

GOOD = """
run: {name: a-run}
cluster: {workers: 2}
model:
  hidden_size: 16
  max_position_embeddings: 64
  encoder: {type: transformer, num_layers: 1, num_heads: 2}
  target: mlm
train: {max_steps: 10, global_batch_size: 64, micro_batch_size: 8}
package: {name: nano}
"""


@pytest.fixture
def problems(tmp_path):
    """Load GOOD with overrides and return what is wrong, by path."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    def load(*overrides):
        try:
            load_config(PretrainConfig, path, overrides)
        except ConfigError as error:
            return {problem.path: problem.message for problem in error.problems}
        return {}

    return load


def test_a_good_config_has_no_problem(problems):
    assert problems() == {}


def test_a_micro_batch_that_does_not_divide(problems):
    assert problems("train.micro_batch_size=7") == {
        "train.micro_batch_size": "7 does not divide train.global_batch_size (64) / workers (2). "
        "Use 1, 2, 4, 8, 16 or 32."
    }


def test_a_batch_that_cannot_be_shared(problems):
    found = problems("train.global_batch_size=63", "train.micro_batch_size=1")
    assert "63 does not divide over 2 workers" in found["train.global_batch_size"]


def test_blocks_longer_than_the_model(problems):
    found = problems("data.block_size=128")
    assert "128 exceeds model.max_position_embeddings (64)" in found["data.block_size"]


def test_a_vocabulary_smaller_than_the_tokenizers(problems):
    assert "100 is smaller" in problems("model.vocab_size=100")["model.vocab_size"]


CAUSAL = "model.encoder.mask=causal"


@pytest.mark.parametrize(
    ("overrides", "fits"),
    [
        (["model.target=mlm"], True),
        (["model.target=mlm", CAUSAL], False),
        (["model.target=lm"], False),
        (["model.target=lm", CAUSAL], True),
        (["model.target=lm", "model.encoder={type: lstm}"], True),
        (["model.target=lm", "model.encoder={type: lstm, bidirectional: true}"], False),
        (["model.target=lm", "model.encoder={type: gatedcnn}"], True),
        (["model.target=mlm", "model.encoder={type: gatedcnn}"], False),
        (["model.target=mlm", "model.encoder={type: gatedcnn, mask: bidirectional}"], True),
        (["model.target=bilm", "model.encoder=bilstm"], True),
        (["model.target=mlm", "model.encoder=bilstm"], True),
        (["model.target=lm", "model.encoder=bigru"], False),
        (["model.target=bilm"], False),
    ],
)
def test_the_encoder_must_read_what_the_target_needs(problems, overrides, fits):
    found = problems(*overrides)
    assert (found == {}) is fits
    if not fits:
        assert list(found) == ["model.target.0.type"]
        assert "needs an encoder" in found["model.target.0.type"]


DECODER = [
    "model.target=lm",
    "model.target_embedding={parts: [word, pos]}",
    "model.decoder={type: transformer, num_heads: 2}",
]
SENTINELS = "data.tokenizer.sentinels=8"
TOPIC = "data.data.source=builtin:pydoc/kind"
ROWS = "data.data.source=files:rows.jsonl"
PACKED = "data.packing=documents"


@pytest.mark.parametrize(
    ("overrides", "path", "words"),
    [
        (["model.target={type: cls, num_labels: 3}"], "data.data.source", "no labels"),
        (["model.target=tags"], "data.data.source", "has no labels for tags. Use files: or hf:"),
        (["model.target=multilabel", TOPIC], "data.data.source", "no labels for multilabel"),
        (["model.target=[tags, cls]", ROWS], "model.target", "labels of these together"),
        (["model.target=tags", ROWS, "data.data.pair_column=b"], "data.data.pair_column", "one"),
        (["model.target=[sp, mlm]"], "data.data.source", "has no labels"),
        (["model.target=[mlm, lm]"], "model.target", "no samples with labels of these together"),
        (["model.target=[mlm, nsp, sop]"], "model.target", "together"),
        (["model.target=[]"], "model.target", "no target with labels"),
        (["model.target=vector"], "model.target", "no target with labels"),
        (["samples={type: pairs}"], "samples.type", "have labels of one target nsp or sop"),
        (["samples={type: spans}"], "samples.type", "'spans'"),
        (["samples={type: next}"], "samples.type", "the model has mlm"),
        ([*DECODER], "samples", "denoising, gaps, mt or spans"),
        ([*DECODER, "samples={type: next}"], "samples.type", "the model has a decoder"),
        ([*DECODER, "samples={type: spans}"], "data.tokenizer.sentinels", "need"),
        (["model.target=lm", CAUSAL, "samples={type: gaps}"], "samples.type", "no decoder"),
        (["model.target=lm", CAUSAL, "samples={type: prefix}"], "samples.type", "mask: prefix"),
        ([TOPIC], "data.data.source", "is not a corpus"),
        (["model.target=[mlm, nsp]", PACKED], "data.packing", "masked, next, prefix or replaced"),
        (["model.target=mlm", "model.encoder=bilstm", PACKED], "data.packing", "across documents"),
        (["model.target=cls", TOPIC, "data.max_documents=9"], "data.max_documents", "max_rows"),
        (["samples={type: nonsense}"], "samples.type", "nonsense"),
        (["samples={type: maskd}"], "samples.type", "Did you mean 'masked'? (denoising, gaps,"),
        (["samples={type: masked, masking: {share: 2}}"], "samples.masking.share", "at most 1"),
    ],
)
def test_targets_and_data_that_do_not_fit(problems, overrides, path, words):
    assert words in problems(*overrides)[path]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.target=[mlm, nsp]"],
        ["model.target=[mlm, {type: sop, weight: 0.5}]"],
        ["model.target=[nsp]"],
        ["model.target=rtd"],
        ["model.target=[mlm, vector]"],
        ["model.target=cls", TOPIC],
        ["model.target=[cls, mlm]", TOPIC],
        ["model.target=[{type: tags, num_labels: 9}, mlm]", ROWS],
        ["model.target=regression", ROWS],
        ["samples={type: masked, masking: {units: spans}}", PACKED],
        ["model.target=lm", "model.encoder.mask=prefix"],
        ["model.target=lm", "model.encoder.mask=prefix", "samples={type: next}"],
        [*DECODER, "samples={type: spans}", SENTINELS],
        [*DECODER, "samples={type: denoising}"],
        [*DECODER, "samples={type: gaps, selection: lead}"],
    ],
)
def test_targets_and_data_that_fit(problems, overrides):
    assert problems(*overrides) == {}


def test_a_target_without_samples_is_named(problems, monkeypatch):
    monkeypatch.setattr(objectives, "trained_targets", lambda: ["mlm"])
    found = problems("model.target=[mlm, rtd]")["model.target.1.type"]
    assert found == "'rtd' cannot be pre-trained on a corpus. Use one of mlm."


def test_the_usual_samples_are_those_of_the_targets(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)

    def usual(*overrides):
        return load_config(PretrainConfig, path, overrides).chosen_samples.type

    assert usual() == "masked"
    assert usual("model.target=[mlm, sop]") == "pairs"
    assert usual("model.target=lm", CAUSAL) == "next"
    assert usual("model.target=lm", "model.encoder.mask=prefix") == "prefix"
    assert usual("model.target=bilm", "model.encoder=bilstm") == "neighbours"
    assert usual("model.target=rtd") == "replaced"
    assert usual("model.target=[cls, mlm]", TOPIC) == "labelled"


IMAGES = [
    "data.data.source=builtin:digits",
    "model.target={type: cls, num_labels: 10}",
    "model.embedding={parts: [{type: patch, image_size: 8, patch_size: 2, channels: 1}, pos]}",
    "model.max_position_embeddings=17",
]


def test_images_have_neither_words_nor_a_tokenizer(problems):
    assert problems(*IMAGES) == {}
    assert "no tokenizer" in problems(*IMAGES, "data.tokenizer.vocab_size=500")["data.tokenizer"]
    words = problems(*IMAGES, "model.embedding={parts: [word, pos]}")
    assert "no words" in words["model.embedding.parts"]
    both = "model.target=[{type: cls, num_labels: 10}, {type: mlm, tie: false}]"
    assert "no tokens to mask" in problems(*IMAGES, both)["model.target"]


PATCHES = "{type: %s, image_size: 8, patch_size: 2, channels: 1}"
STACK = "{parts: [%s, pos], layernorm: false}"
PICTURES = "data.data.source=builtin:digits"
SCENES = "data.data.source=builtin:digit_scenes"
MIM = [PICTURES, "model.target={type: mim, num_codes: 8}"]
HIDING = f"model.embedding={STACK % (PATCHES % 'masked_patch')}"
SEEING = f"model.embedding={STACK % (PATCHES % 'patch')}"
SPEECH = "model.embedding={parts: [speech, sinusoidalpos]}"


def dual(second):
    stack = f"{{type: dual, first: {{parts: [word, pos]}}, second: {second}}}"
    encoder = "{type: dual, first: {type: transformer, num_heads: 2}}"
    return [
        f"model.embedding={{parts: [{stack}], layernorm: false, dropout: 0.0}}",
        f"model.encoder={encoder}",
        "model.target=clr",
    ]


CLIP = [SCENES, *dual(STACK % (PATCHES % "patch"))]
PATTERN = "data.data.name_pattern"
S2T = ["data.data.source=builtin:morse", SPEECH, *DECODER]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ([*MIM, HIDING], "masked_patches"),
        (CLIP, "image_text"),
        (["data.data.source=builtin:pydoc_pairs", *dual("{parts: [word, pos]}")], "text_pairs"),
        (S2T, "transcripts"),
        (["data.data.source=builtin:morse", SPEECH, "model.target=ctc"], "transcripts"),
        (["data.data.source=files:recordings", SPEECH, "model.target=ctc"], "transcripts"),
    ],
)
def test_what_a_model_reads_decides_its_samples(tmp_path, overrides, kind):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    config = load_config(PretrainConfig, path, overrides)
    assert config.chosen_samples.type == kind
    assert config.prefetch_steps == 2
    ahead = load_config(PretrainConfig, path, [*overrides, "train.prefetch_steps=5"])
    assert ahead.prefetch_steps == 5


@pytest.mark.parametrize(
    ("overrides", "path", "words"),
    [
        ([*MIM, SEEING], "model.embedding.parts.0", "Use `masked_patch`"),
        (
            [*MIM, HIDING, SCENES.replace("digit_scenes", "morse")],
            "data.data.source",
            "no examples",
        ),
        ([*MIM, HIDING, "data.tokenizer.vocab_size=500"], "data.tokenizer", "Leave it out"),
        ([*MIM, HIDING, "data.max_documents=9"], "data.max_documents", "max_rows"),
        ([*CLIP, "samples={type: text_pairs}"], "model.embedding.parts", "picture and text"),
        ([*CLIP, "data.block_size=100"], "data.block_size", "exceeds max_position_embeddings (64)"),
        ([*CLIP, "data.data.source=builtin:pydoc"], "data.data.source", "builtin:digit_scenes"),
        ([*S2T, "samples={type: spans}"], "data.data.source", "not a corpus"),
        (["model.target=mlm", SCENES], "data.data.source", "not a corpus"),
        ([*S2T, "data.data={source: 'files:x', name_pattern: '^a'}"], PATTERN, "has no group"),
        ([*S2T, "data.data={source: 'files:x', name_pattern: '('}"], PATTERN, "not a regular"),
    ],
)
def test_examples_that_do_not_fit(problems, overrides, path, words):
    assert words in problems(*overrides)[path]


def test_one_worker_is_not_two(problems):
    assert "'single' runs on one worker" in problems("engine.type=single")["engine.type"]


def test_everything_is_said_at_once(problems):
    found = problems(
        "train.micro_batch_size=7", "data.block_size=128", CAUSAL, "train.schedule.warmup_steps=99"
    )
    assert set(found) >= {
        "train.micro_batch_size",
        "data.block_size",
        "model.target.0.type",
        "train.schedule.warmup_steps",
    }


def test_elastic_workers_are_bounds(make_config):
    config = make_config("cluster.workers={min: 1, max: 2}")
    assert (config.cluster.workers, config.cluster.max_workers) == (1, 2)
    assert list(config.cluster.worker_counts) == [1, 2]
    assert list(make_config("cluster.workers=2").cluster.worker_counts) == [2]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster.workers={min: 1, max: 3}"], "does not divide over 3 workers"),
        (["cluster.workers={min: 2, max: 1}"], "1 is less than workers"),
        (["cluster.workers={min: 1, max: 2}", "engine.type=single"], "engine.type"),
        (["cluster.workers={min: 1, most: 2}"], "cluster.workers"),
    ],
)
def test_bounds_that_cannot_work_are_problems(make_config, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        make_config(*overrides)
