"""Small models of two streams for the tests of this room."""

from .small import make_batch, make_config

TRANSFORMER = {"type": "transformer", "num_heads": 2, "intermediate_size": 32, "dropout": 0.0}
STACK = {"parts": ["word", "pos"], "dropout": 0.0}
IMAGE = {
    "parts": [{"type": "patch", "image_size": 8, "patch_size": 4}, "pos"],
    "layernorm": False,
    "dropout": 0.0,
}
SECOND = {"hidden_size": 12, "max_position_embeddings": 5}


def pair_config(target, *, embedding=None, encoder=None, **options):
    """Return a model of two texts; ``embedding`` and ``encoder`` change the dual parts."""
    part = {"type": "dual", "first": STACK} | (embedding or {})
    stack = {"parts": [part], "layernorm": False, "dropout": 0.0}
    dual = {"type": "dual", "first": TRANSFORMER} | (encoder or {})
    return make_config(**({"embedding": stack, "encoder": dual, "target": target} | options))


def image_text_config(target):
    """Return a model of a text and an image, of different widths."""
    return pair_config(target, embedding={"second": IMAGE}, second=SECOND)


def pair_batch(rows=4):
    """Return a batch of two texts in each row."""
    second = {f"second.{key}": value for key, value in make_batch(rows).items()}
    return make_batch(rows) | second
