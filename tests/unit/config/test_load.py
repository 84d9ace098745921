import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import Field, ValidationError

from orchestrator.config import (
    JobConfig,
    JobResult,
    StrictModel,
    collect_problems,
    dump_yaml,
    json_schema,
    load_config,
    require_no_problems,
    validate_config,
)
from orchestrator.errors import ConfigError, Problem

from .sample import VALID, SampleConfig, Train, Transformer


def write(tmp_path: Path, text: str, name: str = "job.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(data, overrides=()):
    with pytest.raises(ConfigError) as caught:
        validate_config(SampleConfig, data, "job.yaml", overrides)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_example_of_the_design_is_reported_in_full(tmp_path):
    path = write(
        tmp_path,
        """
        run: {name: bert}
        cluster: {workers: 2}
        model: {encoder: {type: transfomer}}
        train: {micro_batch_size: 7}
        """,
    )
    with pytest.raises(ConfigError) as caught:
        load_config(SampleConfig, path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 2 problems"
    assert lines[1].startswith(
        "  model.encoder.type: 'transfomer' is not a registered encoder. "
        "Did you mean 'transformer'?"
    )
    assert lines[2] == (
        "  train.micro_batch_size: 7 does not divide train.global_batch_size (64) / workers (2). "
        "Use 1, 2, 4, 8, 16 or 32."
    )
    assert caught.value.exit_code == 2


def test_every_kind_of_problem_is_in_one_report():
    found = problems_of(
        {
            "run": {"name": "Hello World"},
            "model": {
                "encoder": {"type": "dual", "streams": [{"type": "lstm", "layres": 2}, {}]},
                "parts": ["word", 3, {"type": "transformer", "hiden_size": 3}],
                "decoder": {"hidden_size": 4, "zz": 1},
                "weights": {"a": "heavy"},
            },
            "train": {
                "max_steps": "7",
                "learning_rate": 0,
                "precision": "fp33",
                "resume": 1,
                "note": 5,
                "name_even": "odd",
            },
            "sed": 1,
        },
        ["seed", "train.max_step=3"],
    )
    assert "must match" in found["run.name"]
    assert "Did you mean 'layers'?" in found["model.encoder.streams.0.layres"]
    assert "is required" in found["model.encoder.streams.1.type"]
    assert found["model.parts.1"].startswith("3 is not text or a section")
    assert "Did you mean 'hidden_size'?" in found["model.parts.2.hiden_size"]
    assert "model.parts.2" not in found  # the arm that was not meant says nothing
    assert found["model.decoder.hidden_size"] == "4 is not allowed: must be at least 8."
    assert "not a known key" in found["model.decoder.zz"]
    assert found["model.weights.a"] == "'heavy' is not a number."
    assert found["train.max_steps"] == "'7' is not a whole number."
    assert "greater than 0" in found["train.learning_rate"]
    assert "Did you mean 'fp32'? Allowed: 'fp32' or 'bf16'." in found["train.precision"]
    assert found["train.resume"] == "1 is not true or false."
    assert found["train.note"] == "5 is not text. Put it in quotes."
    assert found["train.name_even"] == "odd has an odd length. Add a letter."
    assert "Did you mean 'seed'?" in found["sed"]
    assert "has no '='" in found["seed"]
    assert "Did you mean 'max_steps'?" in found["train.max_step"]


def test_a_missing_value_is_named_with_its_meaning():
    found = problems_of({"run": {}, "model": {"encoder": {"type": "lstm"}}})
    assert found["run.name"].startswith("is required. Name of the run")


def test_checks_that_read_only_valid_values_run_beside_invalid_ones():
    found = problems_of(
        {**VALID, "train": {"micro_batch_size": 7, "precision": "x"}, "cluster": {"workers": 2}}
    )
    assert set(found) == {"train.precision", "train.micro_batch_size"}


def test_checks_that_read_an_invalid_value_are_left_out():
    found = problems_of({**VALID, "train": {"micro_batch_size": "many"}})
    assert set(found) == {"train.micro_batch_size"}
    found = problems_of({**VALID, "cluster": 3, "train": {"micro_batch_size": 7}})
    assert set(found) == {"cluster"}


def test_cross_field_problems_of_nested_sections_have_absolute_paths():
    class Inner(StrictModel):
        low: int = 0
        high: int = 1

        def problems(self):
            if self.low > self.high:
                yield Problem("low", f"{self.low} is above high ({self.high}).")

    class Outer(StrictModel):
        one: Inner = Inner()
        many: tuple[Inner, ...] = ()
        named: dict[str, Inner] = Field(default_factory=dict)

    bad = {"low": 3, "high": 2}
    outer = Outer.model_validate({"one": bad, "many": [{}, bad], "named": {"x": bad}})
    assert [p.path for p in collect_problems(outer)] == ["one.low", "many.1.low", "named.x.low"]
    with pytest.raises(ConfigError, match="3 problems"):
        require_no_problems(outer, "here")


def test_a_section_default_is_kept_under_keys_given_by_the_file():
    config = validate_config(SampleConfig, {**VALID, "train": {"note": "n"}}, "x")
    assert config.train == Train(max_steps=50, note="n")


def test_another_component_type_keeps_nothing_of_the_default():
    class Holder(StrictModel):
        encoder: Transformer | None = Transformer(num_layers=9)

    assert validate_config(Holder, {"encoder": {"hidden_size": 16}}, "x").encoder.num_layers == 9
    with pytest.raises(ConfigError):
        validate_config(Holder, {"encoder": {"type": "lstm"}}, "x")


def test_defaults_then_file_then_overrides(tmp_path):
    path = write(tmp_path, "run: {name: a}\nmodel: {encoder: {type: lstm, layers: 3}}\nseed: 1\n")
    config = load_config(SampleConfig, path, ["seed=2", "seed=3", "train.learning_rate=1e-4"])
    assert (config.seed, config.model.encoder.layers) == (3, 3)
    assert config.train.learning_rate == 1e-4
    assert config.cluster.max_failures == 3


def test_without_a_file_only_overrides_count():
    config = load_config(SampleConfig, None, ["run.name=a", "model.encoder.type=lstm"])
    assert config.model.encoder.type == "lstm"
    with pytest.raises(ConfigError, match="command line: 2 problems"):
        load_config(SampleConfig, None)


def test_the_callers_data_is_not_changed():
    data = json.loads(json.dumps(VALID))
    validate_config(SampleConfig, data, "x", ["model.encoder.num_layers=4", "seed=9"])
    assert data == VALID


def test_printing_and_loading_gives_the_same_config(tmp_path):
    config = validate_config(
        SampleConfig,
        {**VALID, "train": {"note": "1e3", "learning_rate": 1e-12}},
        "x",
        ["model.parts.0=no", "model.weights={a: 1e-30}", "run.dir='~'"],
    )
    assert load_config(SampleConfig, write(tmp_path, dump_yaml(config))) == config


def test_a_secret_is_never_shown(tmp_path):
    config = validate_config(SampleConfig, {**VALID, "key": "hunter2"}, "x")
    assert "hunter2" not in dump_yaml(config)
    with pytest.raises(ConfigError) as caught:
        validate_config(SampleConfig, {**VALID, "key": ["hunter2"]}, "x")
    assert "hunter2" not in str(caught.value)


def test_configs_are_frozen_and_closed():
    config = validate_config(SampleConfig, VALID, "x")
    with pytest.raises(ValidationError):
        config.seed = 3
    with pytest.raises(ValidationError):
        Train(max_stesp=3)


def test_the_schema_is_valid_and_accepts_what_loads():
    schema = json_schema(SampleConfig)
    jsonschema.Draft202012Validator.check_schema(schema)
    config = validate_config(SampleConfig, VALID, "x")
    jsonschema.validate(json.loads(config.model_dump_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALID, "sed": 1}, schema)
    assert schema["$defs"]["RunSection"]["properties"]["name"]["description"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty. Required: run, model."),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "but is a list"),
        ("just words\n", "but is one value ('just words')"),
        ("a: [1\n", "not valid YAML: line"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("a: &x [*x]\n", "aliases"),
        ("[" * 2000, "nested deeper"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(SampleConfig, write(tmp_path, text))
    assert expected in str(caught.value)


def test_an_alias_bomb_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="expand to more than"):
        load_config(SampleConfig, write(tmp_path, "\n".join(lines)))


def test_an_alias_used_twice_is_fine(tmp_path):
    text = "run: {name: a}\nmodel: {encoder: {type: dual, streams: [&e {type: lstm}, *e]}}\n"
    config = load_config(SampleConfig, write(tmp_path, text))
    assert [stream.type for stream in config.model.encoder.streams] == ["lstm", "lstm"]


def test_duplicate_keys_are_named_with_their_lines(tmp_path):
    path = write(
        tmp_path, "run: {name: a, name: b}\nseed: 1\nmodel: {encoder: {type: lstm}}\nseed: 2\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(SampleConfig, path)
    assert [str(p) for p in caught.value.problems] == [
        "run.name: the key is written twice (lines 1 and 1). Keep one.",
        "seed: the key is written twice (lines 2 and 4). Keep one.",
    ]


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("seed: 1\nrun: {name: caf\u00e9}\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8: byte 0xe9 on line 2\. Save it as UTF-8"):
        load_config(SampleConfig, path)


def test_a_byte_order_mark_is_fine(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfrun: {name: a}\n")
    assert load_config(JobConfig, path).run.name == "a"


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "seed: 1", "pretrain_bert.yaml")
    write(tmp_path, "seed: 1", "quantize.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(SampleConfig, tmp_path / "pretrain_brt.yaml")
    assert f"Did you mean '{tmp_path / 'pretrain_bert.yaml'}'?" in str(caught.value)
    assert "quantize.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="there is no folder"):
        load_config(SampleConfig, tmp_path / "no" / "x.yaml")


def test_a_folder_instead_of_a_file(tmp_path):
    write(tmp_path, "seed: 1", "one.yaml")
    with pytest.raises(ConfigError, match=r"is a folder\. Name one of its files: one\.yaml"):
        load_config(SampleConfig, tmp_path)


def test_a_file_far_too_large(tmp_path):
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(ConfigError, match="this is not a config file"):
        load_config(SampleConfig, path)


@pytest.mark.parametrize(
    "name", ["", "A", "a/b", "../a", "a b", "-a", ".a", "a" * 65, "a\n", "\u00e4"]
)
def test_run_names_that_are_no_folder_names(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        validate_config(JobConfig, {"run": {"name": name}}, "x")


def test_a_run_folder_on_an_object_store_is_refused():
    with pytest.raises(ConfigError, match=r"run\.zoo may be an object store"):
        validate_config(JobConfig, {"run": {"name": "a", "dir": "s3://bucket/runs"}}, "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1e3", 1e3), ("1.5", 1.5), (".5", 0.5), ("-7", -7), ("0x10", 16),
        ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
        ("true", True), ("null", None), ("~", None), ("010", "010"), ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    class Free(StrictModel):
        value: object = None

    assert load_config(Free, None, [f"value={text}"]).value == value


def test_a_result_has_the_fields_of_the_json_line():
    result = JobResult(package="a/v0001", metrics={"loss": 1.0}, run_dir="runs/a")
    assert list(result.model_dump()) == ["status", "package", "metrics", "run_dir"]
