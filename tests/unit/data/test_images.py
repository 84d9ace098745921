"""Image processors against those of transformers (Pillow back end), and the augmentation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BeitImageProcessorPil,
    CLIPImageProcessorPil,
    DeiTImageProcessorPil,
    SiglipImageProcessorPil,
    ViltImageProcessorPil,
    ViTImageProcessorPil,
)

from orchestrator.data.media.augmentation import choose_crops
from orchestrator.data.media.image_settings import FAMILIES
from orchestrator.data.media.images import ImageProcessor, read_image
from orchestrator.data.media.inputs import CropConfig
from orchestrator.errors import InputError

THEIRS = {
    "vit": ViTImageProcessorPil,
    "deit": DeiTImageProcessorPil,
    "beit": BeitImageProcessorPil,
    "clip": CLIPImageProcessorPil,
    "siglip": SiglipImageProcessorPil,
}
SIZES = [(37, 61), (300, 260), (224, 224), (90, 400)]


def random_picture(height, width, channels=3, seed=0):
    """Return smooth noise, so that filters matter, with hard edges."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (height, width, channels), dtype=np.uint8)
    picture[height // 3 :, : width // 2] //= 3
    return picture


def their_pixels(theirs, picture):
    return theirs(images=Image.fromarray(picture), return_tensors="np")["pixel_values"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", list(THEIRS))
def test_pixels_equal_the_reference(family, size):
    picture = random_picture(*size)
    found = ImageProcessor.of_family(family).arrays([picture])["pixel_values"]
    expected = their_pixels(THEIRS[family](), picture)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (1, 3, 224, 224)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


OTHER_SETTINGS = {
    "small": {"size": {"height": 20, "width": 28}},
    "edge": {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 18}},
    "larger_crop": {"size": {"shortest_edge": 16}, "crop_size": {"height": 33, "width": 22}},
    "no_resize": {"do_resize": False, "crop_size": {"height": 30, "width": 30}},
    "bytes": {"do_rescale": False, "do_normalize": False},
    "lanczos": {"resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "scaled": {"rescale_factor": 0.01},
}


@pytest.mark.parametrize("name", list(OTHER_SETTINGS))
def test_settings_are_read_from_their_files(name, tmp_path):
    theirs = CLIPImageProcessorPil(**OTHER_SETTINGS[name])
    theirs.save_pretrained(tmp_path)
    picture = random_picture(41, 53)
    found = ImageProcessor.load(tmp_path).arrays([picture])["pixel_values"]
    np.testing.assert_allclose(found, their_pixels(theirs, picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_is_saved_opens_there_and_here(family, tmp_path):
    ours = ImageProcessor.of_family(family, side=32)
    ours.save(tmp_path)
    assert ImageProcessor.load(tmp_path) == ours
    name = json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"]
    theirs = next(cls for cls in THEIRS.values() if cls.__name__ == f"{name}Pil")
    opened = theirs.from_pretrained(tmp_path)
    picture = random_picture(50, 70)
    found = ours.arrays([picture])["pixel_values"]
    assert found.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(found, their_pixels(opened, picture), atol=1e-5, rtol=0)


def test_vilt_pictures_become_squares_only_if_the_side_is_given(tmp_path):
    ViltImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="384 without a crop keeps the shape of each picture"):
        ImageProcessor.load(tmp_path)
    found = ImageProcessor.load(tmp_path, side=96)
    assert found == ImageProcessor.of_family("vilt", side=96)
    assert found.arrays([random_picture(30, 90)])["pixel_values"].shape == (1, 3, 96, 96)


def test_older_files_have_single_numbers(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert ImageProcessor.load(tmp_path) == ImageProcessor(
        **FAMILIES["clip"] | {"size": 40, "crop": (32, 32)}
    )
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 40, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert ImageProcessor.load(tmp_path) == ImageProcessor.of_family("vit", 40)


def test_pictures_of_all_kinds_become_rgb_or_grey():
    processor = ImageProcessor.of_family("vit", 8)
    rgb = random_picture(9, 9)
    opaque = np.concatenate([rgb, np.full((9, 9, 1), 255, np.uint8)], axis=2)
    grey = random_picture(9, 9, 1)
    same = processor.arrays([rgb, opaque, Image.fromarray(rgb)])["pixel_values"]
    assert (same == same[:1]).all()
    spread = processor.arrays([grey, grey[..., 0]])["pixel_values"]
    assert (spread == spread[:1, :1]).all()
    one = ImageProcessor.of_family("vit", 8, channels=1)
    assert one.arrays([grey, rgb])["pixel_values"].shape == (2, 1, 8, 8)
    assert processor([rgb])["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3)), "float64 \\[4, 4, 3\\]; expected are bytes"),
        (np.zeros((4, 4, 2), np.uint8), "expected are bytes"),
        (np.zeros((0, 4, 3), np.uint8), "expected are bytes"),
        ("cat.png", "str is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(InputError, match=message):
        ImageProcessor().arrays([picture])


def test_no_picture_at_all_is_refused():
    with pytest.raises(InputError, match="no picture"):
        ImageProcessor().arrays([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "DetrImageProcessor"}, "'DetrImageProcessor' is not supported"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample 9 is not one"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}},
            "longest_edge is not supported",
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": {"width": 9}}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_settings_without_counterpart_are_refused(values, message, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        ImageProcessor.load(tmp_path)


def test_unknown_families_and_odd_settings_are_refused():
    with pytest.raises(InputError, match=r"'resnet' is not a family.*vit, deit"):
        ImageProcessor.of_family("resnet")
    with pytest.raises(InputError, match="give both, for each channel"):
        ImageProcessor(mean=(0.5,), std=None)


def test_files_are_read_as_they_are_held(tmp_path):
    picture = random_picture(6, 10)
    Image.fromarray(picture).save(tmp_path / "plain.png")
    assert (np.asarray(read_image(tmp_path / "plain.png")) == picture).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright, the camera was turned
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").size == (6, 10)
    (tmp_path / "broken.png").write_bytes((tmp_path / "plain.png").read_bytes()[:60])
    for name in ("broken.png", "missing.png"):
        with pytest.raises(InputError, match=f"{name} cannot be read as a picture"):
            read_image(tmp_path / name)


def test_crops_lie_inside_and_have_the_requested_areas_and_ratios():
    sizes = np.tile([[80, 120]], (2000, 1))
    crop = CropConfig(area=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes, flips = choose_crops(crop, sizes, np.arange(2000), 0, 7)
    left, upper, right, lower = boxes.T
    assert (left >= 0).all()
    assert (upper >= 0).all()
    assert (right <= 120).all()
    assert (lower <= 80).all()
    wide, high = right - left, lower - upper
    share, ratio = wide * high / 9600, wide / high
    assert share.min() > 0.19
    assert share.max() < 0.61
    assert abs(share.mean() - 0.4) < 0.02
    assert ratio.min() > 0.47
    assert ratio.max() < 2.13
    assert abs(np.log(ratio).mean()) < 0.1
    assert abs(flips.mean() - 0.5) < 0.05
    assert len(np.unique(left)) > 50


def test_a_picture_that_no_crop_fits_gives_its_center():
    boxes, _ = choose_crops(CropConfig(area=(1.0, 1.0)), np.array([[10, 100]]), np.array([0]), 0, 1)
    assert boxes.tolist() == [[43, 0, 56, 10]]


def test_crops_depend_on_seed_epoch_and_sample_alone():
    processor, crop = ImageProcessor.of_family("vit", 16), CropConfig()
    pictures = [random_picture(40, 50, seed=i) for i in range(4)]
    order = np.array([5, 3, 9, 2])

    def augmented(chosen, epoch=0, seed=7):
        chosen = np.asarray(chosen)
        return processor.augmented([pictures[i] for i in chosen], crop, order[chosen], epoch, seed)[
            "pixel_values"
        ]

    whole = augmented([0, 1, 2, 3])
    assert whole.shape == (4, 3, 16, 16)
    assert (augmented([2, 0]) == whole[[2, 0]]).all()
    assert (augmented([0, 1, 2, 3], epoch=np.array([0, 0, 0, 0])) == whole).all()
    for other in (augmented([0, 1, 2, 3], epoch=1), augmented([0, 1, 2, 3], seed=8)):
        assert (other != whole).any(axis=(1, 2, 3)).all()


def test_a_crop_is_flipped_and_normalized():
    processor = ImageProcessor.of_family("vit", 8)
    picture = random_picture(8, 8)
    all_of_it = CropConfig(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
    found = processor.augmented([picture], all_of_it, np.array([0]), 0, 1)["pixel_values"]
    mirrored = processor.arrays([picture[:, ::-1]])["pixel_values"]
    assert (found == mirrored).all()
