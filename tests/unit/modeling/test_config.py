"""The model config: what it accepts, what it refuses and in which words."""

import subprocess
import sys

import pytest
import torch

from orchestrator.config import dump_yaml, json_schema, load_config, validate_config
from orchestrator.errors import ConfigError
from orchestrator.modeling.builder import build_model, build_on_meta
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.encoders.configs import TransformerConfig
from orchestrator.modeling.targets.configs import ClsConfig
from orchestrator.modeling.targets.token_configs import MlmConfig


def problems_of(**raw):
    with pytest.raises(ConfigError) as caught:
        validate_config(ModelConfig, raw, "model.yaml")
    return {problem.path: problem.message for problem in caught.value.problems}


def config_of(**raw):
    return validate_config(ModelConfig, raw, "model.yaml")


def test_names_mappings_and_objects_mean_the_same():
    by_name = config_of(encoder="transformer", target="mlm")
    by_mapping = config_of(encoder={"type": "transformer"}, target=[{"type": "mlm"}])
    by_object = ModelConfig(encoder=TransformerConfig(), target=(MlmConfig(),))
    assert by_name == by_mapping == by_object
    assert by_name.target[0].name == "mlm"
    assert [part.type for part in by_name.embedding.parts] == ["word", "pos", "seg"]


def test_yaml_round_trip_keeps_every_option(tmp_path):
    config = config_of(
        vocab_size=50,
        embedding={"parts": [{"type": "word", "scale": True}, "sinusoidalpos"]},
        encoder={"type": "transformer", "rotary": {"theta": 500.0}, "mask": "causal"},
        target=["lm", {"type": "cls", "name": "topic", "num_labels": 4}],
    )
    path = tmp_path / "model.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(ModelConfig, path) == config


NARROW = {"parts": ["word"], "size": 20, "projection": "none"}


@pytest.mark.parametrize("encoder", ["lstm", "bigru", "gatedcnn"])
def test_an_encoder_may_read_an_embedding_of_another_width(encoder):
    reads = {"type": encoder, "input_size": 20}
    reads |= {"residual_from": "first_layer"} if encoder == "gatedcnn" else {}
    config = config_of(hidden_size=32, vocab_size=30, embedding=NARROW, encoder=reads)
    names = dict(build_on_meta(config).named_parameters())
    assert "embedding.projection.weight" not in names
    batch = {"input_ids": torch.randint(0, 30, (2, 5))}
    assert build_model(config).encode(batch).shape == (2, 5, 32)
    for change in ({"embedding": {"parts": ["word"]}}, {"encoder": encoder}):
        found = problems_of(**({"hidden_size": 32, "embedding": NARROW, "encoder": reads} | change))
        assert "but the embedding makes" in found["encoder"]


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        ({"encoder": "transformer", "embedding": NARROW}, "encoder", "the embedding makes 20"),
        (
            {"encoder": {"type": "gatedcnn", "input_size": 20}, "embedding": NARROW},
            "encoder.residual_from",
            "adds vectors of 20 to those of 128",
        ),
        (
            {"encoder": "lstm", "embedding": {"parts": ["word"], "projection": "none"}},
            "embedding.projection",
            "there is none without size",
        ),
        (
            {
                "encoder": "transformer",
                "decoder": "transformer",
                "target_embedding": {"parts": ["word", "pos"], "size": 20, "projection": "none"},
            },
            "target_embedding.projection",
            "'none' is not for a decoder",
        ),
        (
            {"encoder": {"type": "dual", "first": {"type": "lstm", "input_size": 20}}},
            "encoder.first.input_size",
            "is for a single stream",
        ),
        (
            {
                "encoder": "dual",
                "embedding": {
                    "parts": [{"type": "dual", "first": NARROW, "norms": ["first", "first"]}]
                },
            },
            "embedding.parts.0.norms",
            "name each stream once",
        ),
        (
            {"encoder": "dual", "embedding": {"parts": [{"type": "dual", "first": NARROW}]}},
            "embedding.parts.0.first.projection",
            "'none' is not for a stream of `dual`",
        ),
    ],
)
def test_widths_that_do_not_fit_are_named(raw, path, message):
    assert message in problems_of(**raw)[path]


def test_dump_without_defaults_still_says_which_component():
    config = config_of(encoder="lstm", target="lm")
    raw = config.model_dump(exclude_defaults=True)
    assert raw["encoder"] == {"type": "lstm"}
    assert validate_config(ModelConfig, raw, "model.yaml") == config


def test_an_unknown_component_is_answered_with_the_nearest_name_and_the_others():
    message = problems_of(encoder={"type": "transfomer"})["encoder.type"]
    assert message.startswith(
        "'transfomer' is not a registered encoder. Did you mean 'transformer'? (bigru, bilstm,"
    )


def test_an_unknown_option_is_answered_with_the_nearest_name_and_its_path():
    found = problems_of(encoder={"type": "transformer", "num_head": 2, "rotary": {"tetha": 1.0}})
    assert "Did you mean 'num_heads'?" in found["encoder.num_head"]
    assert "Did you mean 'theta'?" in found["encoder.rotary.tetha"]


def test_options_of_one_component_are_no_options_of_another():
    assert "encoder.num_heads" in problems_of(encoder={"type": "lstm", "num_heads": 2})


def test_every_problem_is_reported_at_once():
    found = problems_of(
        hidden_size=-1, encoder={"type": "lstm", "num_layers": 0}, target=[{"type": "mml"}]
    )
    assert set(found) == {"hidden_size", "encoder.num_layers", "target.0.type"}


@pytest.mark.parametrize("value", [3, None, {"num_layers": 2}, ["lstm"]])
def test_something_that_names_no_component_is_refused_with_the_names(value):
    assert "gatedcnn, gru, lstm" in problems_of(encoder=value)["encoder"]


def test_a_component_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="not a registered encoder"):
        ModelConfig(encoder=MlmConfig())


@pytest.mark.parametrize(
    ("raw", "path", "text"),
    [
        (
            {"encoder": {"type": "transformer", "num_heads": 7}},
            "encoder.num_heads",
            "7 does not divide hidden_size (12). Use one of 1, 2, 3, 4, 6, 12.",
        ),
        (
            {"encoder": {"type": "transformer", "num_heads": 4, "num_kv_heads": 3}},
            "encoder.num_kv_heads",
            "Use one of 1, 2, 4.",
        ),
        (
            {"encoder": {"type": "transformer", "num_heads": 4, "rotary": {}}},
            "encoder.rotary",
            "head size 3 is odd",
        ),
        ({"decoder": "transformer"}, "target_embedding", "is missing"),
        ({"target_embedding": {"parts": ["word"]}}, "target_embedding", "has no decoder"),
        ({"target": ["mlm", "mlm"]}, "target.1.name", "used twice"),
        ({"target": {"type": "cls", "name": "a.b"}}, "target.0.name", "must match"),
        ({"hidden_size": 7, "encoder": "bilstm"}, "encoder.type", "Use an even one"),
        ({"embedding": {"parts": []}}, "embedding.parts", "at least one part"),
        ({"embedding": {"parts": ["word", "word"]}}, "embedding.parts.1", "listed twice"),
        ({"embedding": {"parts": ["pos", "word"]}}, "embedding.parts.0", "cannot stand here"),
        (
            {"embedding": {"parts": [{"type": "patch", "image_size": 32, "patch_size": 5}]}},
            "embedding.parts.0.patch_size",
            "Use one of 1, 2, 4, 8, 16, 32.",
        ),
        (
            {
                "max_position_embeddings": 16,
                "embedding": {"parts": [{"type": "patch", "image_size": 32, "patch_size": 8}]},
            },
            "embedding.parts.0",
            "makes 17 positions, more than max_position_embeddings (16)",
        ),
        (
            {"embedding": {"parts": ["patch"]}, "target": "mlm"},
            "target.0.tie",
            "needs a `word` embedding part",
        ),
        ({"vocab_size": 5, "pad_token_id": 5}, "pad_token_id", "is not below vocab_size (5)"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(raw, path, text):
    found = problems_of(**({"hidden_size": 12, "encoder": "lstm"} | raw))
    assert text in found[path]


@pytest.mark.parametrize(
    ("target", "encoder", "fits"),
    [
        ("lm", "transformer", False),
        ("lm", {"type": "transformer", "mask": "causal"}, True),
        ("lm", {"type": "lstm", "bidirectional": True}, False),
        ("lm", "gru", True),
        ("lm", "bilstm", False),
        ("lm", "gatedcnn", True),
        ("lm", {"type": "gatedcnn", "mask": "bidirectional"}, False),
        ("bilm", "bilstm", True),
        ("bilm", "transformer", False),
        ("mlm", "transformer", True),
        ("mlm", {"type": "transformer", "mask": "causal"}, True),
    ],
)
def test_a_target_may_not_read_its_own_answer(target, encoder, fits):
    if fits:
        config_of(encoder=encoder, target=target)
    else:
        assert "the answer included" in problems_of(encoder=encoder, target=target)["target.0.type"]


def test_a_decoder_makes_next_token_prediction_possible_after_any_encoder():
    config = config_of(
        encoder="transformer",
        target_embedding={"parts": ["word", "pos"]},
        decoder="transformer",
        target="lm",
    )
    assert config.encoder.visibility == "everything"


def test_targets_and_vocabulary_can_be_replaced():
    config = config_of(encoder="lstm", target="lm")
    changed = config.with_targets([ClsConfig(name="topic", num_labels=3)]).with_vocab(99)
    assert [target.name for target in changed.target] == ["topic"]
    assert changed.vocab_size == 99
    assert config.vocab_size == 0
    assert config.target[0].name == "lm"


def test_json_schema_lists_every_component_with_its_options():
    text = str(json_schema(ModelConfig))
    for word in ("gatedcnn", "kernel_size", "sinusoidalpos", "num_kv_heads", "bilm", "pooling"):
        assert word in text


def test_the_config_is_validated_without_torch():
    code = (
        "import sys; from orchestrator.modeling.config import ModelConfig;"
        "from orchestrator.modeling.catalog import describe_components; describe_components();"
        "ModelConfig(encoder={'type': 'transformer'}, target={'type': 'mlm'});"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
