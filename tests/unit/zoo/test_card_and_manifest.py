import json
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import IntegrityError
from orchestrator.storage.json_files import json_bytes
from orchestrator.zoo.card import BEGIN, END, split_card, write_card
from orchestrator.zoo.manifest import Manifest, parse_manifest
from orchestrator.zoo.names import is_version, parse_reference, version_name, version_number

from .making import light

NAME = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
VERSION = st.integers(1, 99999).map(version_name)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)
ENTRY = st.fixed_dictionaries({"sha256": SHA, "bytes": st.integers(0, 2**60)})
MANIFEST = st.fixed_dictionaries(
    {
        "name": NAME,
        "version": VERSION,
        "kind": st.sampled_from(["pretrained", "imported", "finetuned", "continual", "quantized"]),
        "created_at": st.datetimes(timezones=st.just(UTC)),
        "producer": st.fixed_dictionaries({"stage": TEXT}, optional={"seed": JSON, "x": JSON}),
        "parents": st.lists(
            st.fixed_dictionaries({"name": NAME, "version": VERSION, "manifest_sha256": SHA}),
            max_size=2,
        ),
        "task": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"kind": TEXT, "labels": st.dictionaries(TEXT, st.lists(TEXT, max_size=3))},
                optional={"max_length": st.integers(1, 10**6), "extra": JSON},
            ),
        ),
        "metrics": st.dictionaries(TEXT, JSON, max_size=4),
        "licence": st.one_of(st.none(), TEXT),
        "files": st.dictionaries(PATH, ENTRY, max_size=4),
    }
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(MANIFEST)
def test_a_manifest_written_is_the_manifest_read(content):
    manifest = Manifest.model_validate(content)
    data = json_bytes(manifest)
    assert parse_manifest(data, "x") == manifest
    assert json_bytes(parse_manifest(data, "x")) == data


@QUICK
@given(MANIFEST, TEXT)
def test_every_card_begins_with_front_matter_that_is_yaml(content, by_hand):
    manifest = Manifest.model_validate(content)
    card = write_card(manifest, by_hand, None)
    assert card.startswith("---\n")
    front = yaml.safe_load(card[4:].partition("\n---\n")[0])
    assert front["library_name"] == "ray-model-orchestrator"
    assert manifest.kind in front["tags"]
    assert split_card(card)[1] == split_card(by_hand)[1]
    assert write_card(manifest, card, None) == card  # writing it again changes nothing


@QUICK
@given(st.integers(1, 10**9 - 1))
def test_versions_and_their_numbers(number):
    assert is_version(version_name(number))
    assert version_number(version_name(number)) == number
    assert str(parse_reference(f"a/{version_name(number)}")) == f"a/{version_name(number)}"


def manifest(**changes):
    base = {
        "name": "bert", "version": "v0002", "kind": "finetuned", "files": {},
        "created_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "producer": {"stage": "select"},
        "parents": [{"name": "base", "version": "v0001", "manifest_sha256": "a" * 64}],
        "task": {"kind": "classification", "labels": {"topic": ["x", "y"]}, "max_length": 64},
        "metrics": {"test.accuracy": 0.75, "steps": 10, "per_class": [1]}, "licence": "mit",
    }  # fmt: skip
    return Manifest.model_validate({**base, **changes})


def test_the_card_says_what_the_manifest_says():
    card = write_card(manifest(), None, None)
    front = yaml.safe_load(card[4:].partition("\n---\n")[0])
    assert front == {
        "library_name": "ray-model-orchestrator",
        "tags": ["ray-model-orchestrator", "finetuned"],
        "license": "mit",
        "pipeline_tag": "text-classification",
        "base_model": ["base/v0001"],
        "metrics": ["accuracy", "steps"],
    }
    body = card.partition(BEGIN)[2].partition(END)[0]
    assert "# bert v0002" in body
    assert "| test.accuracy | 0.75 |" in body
    assert "| base/v0001 | aaaaaaaaaaaa |" in body
    assert "| labels of topic | x, y |" in body
    assert "| licence | mit |" in body


def test_hugging_face_reads_the_card():
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(write_card(manifest(), "By hand.", None), ignore_metadata_errors=False)
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model == ["base/v0001"]
    assert "By hand." in card.text


def test_text_cannot_break_out_of_its_table_cell():
    evil = "x | y |\n| a | b |\n\n# Title <script>alert(1)</script>"
    card = write_card(manifest(metrics={evil: 1}, licence=evil), None, None)
    body = card.partition(BEGIN)[2]
    assert "<script>" not in body
    assert "\n# Title" not in body
    assert body.count("\n| a ") == 0


def test_the_hand_written_part_goes_from_version_to_version(zoo):
    with zoo.draft("base", kind="pretrained") as draft:
        card = "---\nlanguage: en\nlicense: x\n---\nWritten by me.\n"
        (draft.path / "README.md").write_text(card)
        first = draft.commit()
    assert "Written by me." in (first.path / "README.md").read_text()
    second = light(zoo, licence="mit")
    front, by_hand = split_card((second.path / "README.md").read_text())
    assert by_hand == "Written by me."
    assert front["language"] == "en"
    assert front["license"] == "mit"
    assert "# base v0002" in (second.path / "README.md").read_text()
    with zoo.draft("base", kind="pretrained") as draft:
        (draft.path / "README.md").write_text((second.path / "README.md").read_text() + "\nMore.\n")
        third = draft.commit()
    text = (third.path / "README.md").read_text()
    assert split_card(text)[1] == "Written by me.\n\nMore."
    assert text.count("# base v000") == 1


@pytest.mark.parametrize(
    "text", ["", "---\n", "---\n[: bad\n---\nbody", "--- not front matter", "\ufeff"]
)
def test_odd_cards_are_kept_as_text(text):
    front, by_hand = split_card(text)
    assert front == {}
    assert by_hand == text.replace("\r\n", "\n").strip()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"}, {"version": "1"}, {"kind": "good"}, {"created_at": "yesterday"},
        {"created_at": "2026-01-01T00:00:00"}, {"files": {"a": {"sha256": "x", "bytes": 1}}},
        {"files": {"manifest.json": {"sha256": "a" * 64, "bytes": 1}}}, {"unknown": 1},
        {"parents": [{"name": "a"}]}, {"metrics": []}, {"schema_version": 2}, {"task": {"kind": 3}},
    ],
)  # fmt: skip
def test_a_manifest_with_one_wrong_value_is_refused_and_named(change):
    content = {**json.loads(json_bytes(manifest())), **change}
    with pytest.raises(IntegrityError, match=next(iter(change))):
        parse_manifest(json.dumps(content).encode(), "here")
