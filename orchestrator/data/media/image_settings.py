"""Settings of image processors by family, and their form in transformers' files."""

from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.errors import InputError

Resampling = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
RESAMPLING: dict[str, int] = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}
"""Numbers of Pillow's filters, as stored in settings."""

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Means and standard deviations of CLIP's training pictures."""

Settings = dict[str, Any]

FAMILIES: dict[str, Settings] = {
    "vit": {"kind": "ViTImageProcessor", "size": (224, 224), "resample": "bilinear"},
    "deit": {
        "kind": "DeiTImageProcessor",
        "size": (256, 256),
        "crop": (224, 224),
        "resample": "bicubic",
    },
    "beit": {"kind": "BeitImageProcessor", "size": (224, 224), "resample": "bicubic"},
    "clip": {
        "kind": "CLIPImageProcessor",
        "size": 224,
        "crop": (224, 224),
        "resample": "bicubic",
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    },
    "siglip": {"kind": "SiglipImageProcessor", "size": (224, 224), "resample": "bicubic"},
    "vilt": {"kind": "ViTImageProcessor", "size": (384, 384), "resample": "bicubic"},
}
"""Settings of each family; mean and std default to 0.5. ViLT keeps the aspect ratio of pictures and
pads them; here they become squares, as with ViT's class."""

VILT = "ViltImageProcessor"
CLASSES: dict[str, Settings] = {
    str(settings["kind"]): settings for name, settings in FAMILIES.items() if name != "vilt"
} | {
    VILT: {"kind": "ViTImageProcessor", "size": 384, "resample": "bicubic"},
    "BitImageProcessor": FAMILIES["clip"] | {"kind": "BitImageProcessor"},  # DINOv2's
}
"""Name of a class of transformers → its default settings."""

SUFFIXES = ("Fast", "Pil")
"""Suffixes of their classes with another back end and equal results."""


def from_theirs(values: Mapping[str, Any], side: int | None) -> Settings:
    """Return our settings for the content of their file.

    Args:
        values: Their ``preprocessor_config.json``.
        side: Height and width that the model reads, for settings that keep a picture's shape.

    Raises:
        InputError: Their class or a setting has no counterpart here.
    """
    name = str(values.get("image_processor_type") or values.get("feature_extractor_type"))
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    name = name.replace("FeatureExtractor", "ImageProcessor")
    if name not in CLASSES:
        raise InputError(f"class {name!r} is not supported; supported: {', '.join(CLASSES)}.")
    usual = CLASSES[name]
    if values.get("do_reduce_labels") or (values.get("do_pad") and name != VILT):
        raise InputError("do_pad and do_reduce_labels are not supported. Set them to false.")
    crops = values.get("do_center_crop", "crop" in usual)
    crop = _both(values.get("crop_size", usual.get("crop"))) if crops else None
    size = (
        _size(values.get("size", usual["size"]), usual) if values.get("do_resize", True) else None
    )
    if side is not None and isinstance(size, int) and crop is None:
        size = (side, side)
    normal = values.get("do_normalize", True)
    mean, std = (usual.get(key, HALF) for key in ("mean", "std"))
    return {
        "kind": usual["kind"],
        "size": size,
        "crop": crop,
        "resample": _filter(values.get("resample", RESAMPLING[usual["resample"]])),
        "scale": values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else None,
        "mean": tuple(values.get("image_mean", mean)) if normal else None,
        "std": tuple(values.get("image_std", std)) if normal else None,
    }


def to_theirs(ours: Mapping[str, Any]) -> Settings:
    """Return the content of their file for our settings; every step is named."""
    size, crop = ours["size"], ours["crop"]
    values: Settings = {
        "image_processor_type": ours["kind"],
        "do_convert_rgb": len(ours["mean"] or HALF) == len(HALF),
        "do_resize": size is not None,
        "resample": RESAMPLING[ours["resample"]],
        "do_center_crop": crop is not None,
        "do_rescale": ours["scale"] is not None,
        "do_normalize": ours["mean"] is not None,
    }
    if size is not None:
        values["size"] = {"shortest_edge": size} if isinstance(size, int) else _named(size)
    if crop is not None:
        values["crop_size"] = _named(crop)
    if ours["scale"] is not None:
        values["rescale_factor"] = ours["scale"]
    if ours["mean"] is not None:
        values |= {"image_mean": list(ours["mean"]), "image_std": list(ours["std"])}
    return values


def _named(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _size(theirs: Any, usual: Settings) -> tuple[int, int] | int:
    """Return height and width, or the shorter edge; older files have a single number."""
    if isinstance(theirs, Mapping) and theirs.get("longest_edge") is not None:
        raise InputError("size.longest_edge is not supported. Give height and width.")
    if isinstance(theirs, Mapping) and theirs.get("shortest_edge") is not None:
        return int(theirs["shortest_edge"])
    if isinstance(theirs, int):
        return theirs if isinstance(usual["size"], int) else (theirs, theirs)
    return _both(theirs)


def _both(theirs: Any) -> tuple[int, int]:
    """Return height and width."""
    if isinstance(theirs, Mapping):
        return int(theirs["height"]), int(theirs["width"])
    if isinstance(theirs, int):
        return theirs, theirs
    height, width = theirs
    return int(height), int(width)


def _filter(number: Any) -> str:
    names = {value: name for name, value in RESAMPLING.items()}
    if number not in names:
        raise InputError(f"resample {number!r} is not one of Pillow's filters, {sorted(names)}.")
    return names[number]
