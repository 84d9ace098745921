"""Descriptions of fields: the docstrings below them, read from the source when they are asked for.

Pydantic reads them when a class is made (``use_attribute_docstrings``), which is a third of the
time that importing the configs takes.
"""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue


@cache
def descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the description of every field of a model that has one, by the field's name."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if owner is not BaseModel and issubclass(owner, BaseModel):
            own = inspect.get_annotations(owner)
            found = {name: text for name, text in found.items() if name not in own}
            found |= _docstrings(owner)
    stated = {name: field.description for name, field in model.model_fields.items()}
    found |= {name: text for name, text in stated.items() if text}
    return {name: found[name] for name in model.model_fields if name in found}


def describe(model: type[BaseModel], schema: JsonSchemaValue) -> None:
    """Put the descriptions of a model's fields into its JSON Schema."""
    properties = schema.get("properties", {})
    for name, text in descriptions(model).items():
        key = model.model_fields[name].alias or name
        if key in properties:
            properties[key].setdefault("description", text)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the strings below the fields that a class itself declares."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):  # a class made by a program has no source
        return {}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, below in pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found
