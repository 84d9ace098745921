"""Descriptions of fields: docstrings, of the class that declares a field last."""

from pydantic import Field

from orchestrator.config import StrictModel, json_schema
from orchestrator.config.descriptions import descriptions


class Parent(StrictModel):
    """A section."""

    rows: int = 1
    """Rows that are
    read."""
    seed: int = 0
    """Seed of the order."""
    size: int = Field(2, alias="of", description="Stated.")
    """Not this."""


class Child(Parent):
    """Declares a field again, and another without a description."""

    seed: int = 7
    free: int = 0


def test_the_docstring_of_the_class_that_declares_a_field_describes_it():
    assert descriptions(Parent)["seed"] == "Seed of the order."
    assert descriptions(Child) == {"rows": "Rows that are\nread.", "size": "Stated."}


def test_the_schema_has_them():
    found = json_schema(Child)["properties"]
    assert found["rows"]["description"] == "Rows that are\nread."
    assert found["of"]["description"] == "Stated."
    assert "description" not in found["seed"]
