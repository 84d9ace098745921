import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.config import dump_yaml, load_config, validate_config
from orchestrator.config.overrides import apply_overrides, parse_override
from orchestrator.config.yaml_files import dump_mapping, parse_yaml
from orchestrator.errors import ConfigError

from .sample import VALID, SampleConfig

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEY = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
TREE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def apply(data, *overrides, defaults=None):
    problems = apply_overrides(data, overrides, defaults or {})
    assert not problems, problems
    return data


def load_back(config):
    return validate_config(SampleConfig, parse_yaml(dump_yaml(config), "x")[0], "x")


def only_problem(data, override):
    problems = apply_overrides(data, [override], {})
    assert [p.path for p in problems] == [override]
    return problems[0].message


def test_values_are_yaml():
    data = apply({}, "a.b=[1, 2]", "a.c={d: null}", "e=null", "f='7'", "g=x=y", "h=1e-4")
    assert data == {
        "a": {"b": [1, 2], "c": {"d": None}}, "e": None, "f": "7", "g": "x=y", "h": 1e-4,
    }  # fmt: skip


def test_lists_are_indexed_and_appended_to():
    data = {"a": [{"b": 1}, {"b": 2}]}
    assert apply(data, "a.0.b=5", "a.2.b=6") == {"a": [{"b": 5}, {"b": 2}, {"b": 6}]}
    assert apply({}, "target.0.type=mlm") == {"target": [{"type": "mlm"}]}


def test_a_null_section_becomes_one():
    assert apply({"decoder": None}, "decoder.type=lstm") == {"decoder": {"type": "lstm"}}


def test_a_default_list_can_be_reached_into():
    defaults = {"target": [{"type": "mlm", "weight": 2}, {"type": "sp"}]}
    data = apply({}, "target.0.weight=3", defaults=defaults)
    assert data == {"target": [{"type": "mlm", "weight": 3}, {"type": "sp"}]}
    assert defaults["target"][0]["weight"] == 2
    config = validate_config(SampleConfig, VALID, "x", ["model.parts.1=seg"])
    assert config.model.parts == ["word", "seg"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a", "has no '='"),
        ("=1", "has an empty part"),
        ("a..b=1", "has an empty part"),
        (".a=1", "has an empty part"),
        ("a.=1", "has an empty part"),
        ("a .b=1", "has an empty part"),
        ("", "has no '='"),
        ("a=", "has no value. Write a=null"),
        ("a=[1", "the value is not valid YAML"),
        ("a={x: 1, x: 2}", "written twice"),
        ("n.b=1", "n is 7, which has no key 'b'"),
        ("l.x=1", "'x' is not an index of it (allowed: 0 to 2)"),
        ("l.3=1", "'3' is not an index of it"),
        ("l.-1=1", "'-1' is not an index of it"),
        ("l.0.b=1", "l.0 is 1, which has no key 'b'"),
    ],
)
def test_overrides_that_cannot_be_applied(override, expected):
    data = {"n": 7, "l": [1, 2]}
    assert expected in only_problem(data, override)
    assert data == {"n": 7, "l": [1, 2]}


def test_all_bad_overrides_are_reported_beside_the_rest():
    with pytest.raises(ConfigError) as caught:
        load_config(SampleConfig, None, ["a", "b..c=1", "run.name=x", "model.encoder.type=lsm"])
    assert {p.path for p in caught.value.problems} == {"a", "b..c=1", "model.encoder.type"}


@QUICK
@given(st.lists(KEY, min_size=1, max_size=4), TREE)
def test_an_override_sets_exactly_its_value(keys, value):
    line = dump_mapping(value) if isinstance(value, dict | list) else dump_mapping([value])[2:]
    text = line.removesuffix("...\n")
    data = apply({}, f"{'.'.join(keys)}={text}") if text.strip() else {}
    for key in keys if text.strip() else ():
        data = data[key]
    assert not text.strip() or data == value


@QUICK
@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text):
    try:
        keys, _ = parse_override(text)
    except ValueError:
        return
    assert keys
    assert all(keys)


@QUICK
@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_overrides_load_or_are_reported(overrides):
    try:
        config = validate_config(SampleConfig, VALID, "x", overrides)
    except ConfigError:
        return
    assert load_back(config) == config


@QUICK
@given(TREE)
@example({"\x85": "a\u2028b", "c": "\u2029"})
def test_yaml_written_is_yaml_read(value):
    parsed, problems = parse_yaml(dump_mapping(value), "x")
    assert parsed == value
    assert problems == []
