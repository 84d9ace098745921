"""Families of transformers' classes, and families of other packages."""

import sys

import pytest

from orchestrator.errors import InputError
from orchestrator.modeling.catalog import describe_families
from orchestrator.modeling.huggingface.classes import architectures, find_architecture

FAMILY = """
from dataclasses import replace
from orchestrator.modeling.huggingface.families import bert

ARCHITECTURES = tuple(replace(each, name="Tiny" + each.name) for each in bert.ARCHITECTURES)
"""
KNOWN = "from orchestrator.modeling.huggingface.families.bert import ARCHITECTURES"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution whose module ``their_family`` is a family."""

    def install(source):
        (tmp_path / "their_family.py").write_text(source, encoding="utf-8")
        info = tmp_path / "their_family-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-family\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[orchestrator.components]\nfamily.theirs = their_family\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        architectures.cache_clear()

    yield install
    architectures.cache_clear()
    sys.modules.pop("their_family", None)


def test_a_family_of_another_package_is_found_and_listed(install):
    install(FAMILY)
    assert find_architecture("TinyBertForMaskedLM").model_type == "bert"
    assert "TinyBertModel" in [each.name for each in describe_families()]


def test_a_module_without_architectures_is_refused(install):
    install("")
    with pytest.raises(InputError, match=r"family\.theirs = their_family is not a family"):
        architectures()


def test_a_class_that_is_known_already_is_refused(install):
    install(KNOWN)
    with pytest.raises(InputError, match="defines BertForPreTraining, which exists already"):
        architectures()


def test_every_family_is_found():
    types = {each.model_type for each in architectures().values()}
    assert {"albert", "bert", "whisper", "xlm-roberta"} <= types
    assert len(architectures()) >= 51
