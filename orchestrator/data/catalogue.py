"""Names and descriptions of the builtin data sets; light, for configs."""

BUILTIN_EXAMPLES: dict[str, tuple[str, ...]] = {
    "digits": ("picture",),
    "digit_scenes": ("picture", "text"),
    "morse": ("sound", "text"),
    "pydoc_pairs": ("text", "pair"),
}
"""What the examples of each builtin have; ``sources/<name>.py`` makes them. Digits are labelled
rows as well."""

PYDOC_TASKS: dict[str, str] = {
    "library": "Which of eight libraries a docstring belongs to.",
    "kind": "Whether it describes a module, a class, a function or a method.",
    "torch_area": "Which part of PyTorch it belongs to.",
    "sklearn_area": "Which part of scikit-learn it belongs to.",
    "scipy_area": "Which part of SciPy it belongs to.",
    "pandas_area": "Which part of pandas it belongs to.",
    "numpy_area": "Which part of NumPy it belongs to.",
    "transformers_area": "Which part of Transformers it belongs to.",
    "transformers_role": "What a model file of Transformers does: modeling, configuration, ...",
    "ray_area": "Which part of Ray it belongs to.",
    "sympy_area": "Which part of SymPy it belongs to.",
    "stdlib_area": "Which part of the standard library it belongs to.",
    "style": "In which docstring style it is written: NumPy, Google, Sphinx or plain.",
    "returns_value": "From its description alone: does the function return a value?",
    "raises_error": "From its description alone: does the function raise an error itself?",
    "is_property": "Whether a method is read like an attribute.",
    "is_private": "From its description alone: does the name begin with an underscore?",
    "arguments": "From its description alone: how many arguments the function takes.",
    "documents_parameters": "From its description alone: does a list of parameters follow?",
    "has_example": "From its description alone: does an example follow?",
}
"""Labelled tasks of ``builtin:pydoc``, which ``sources/pydoc_tasks.py`` cuts from docstrings."""
