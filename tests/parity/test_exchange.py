"""Every family through `zoo import` and `zoo export`: checked on the way, tensors byte for byte."""

import json

import pytest
import torch

from orchestrator.modeling.huggingface.classes import architectures
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo

from . import (
    test_bodies,
    test_deberta,
    test_decoder_only,
    test_dinov2,
    test_encoder_decoder,
    test_heads,
    test_huggingface,
    test_llama_relatives,
    test_modernbert,
    test_mpnet,
    test_multimodal,
    test_opt_neox,
    test_rotary_encoders,
    test_speech,
    test_text_encoders,
    test_vision,
)
from .harness import files, randomize

SIDED = (
    test_deberta,
    test_decoder_only,
    test_encoder_decoder,
    test_heads,
    test_huggingface,
    test_llama_relatives,
    test_modernbert,
    test_mpnet,
    test_opt_neox,
    test_text_encoders,
    test_rotary_encoders,
)
CASES = {
    **{name: build for module in SIDED for name, build in module.CASES.items()},
    **{name: lambda a, s, b=build: b(a) for name, build in test_vision.CASES.items()},
    **{name: lambda a, s, b=build: b(a) for name, build in test_speech.CASES.items()},
    **{name: lambda a, s, b=build: b(a) for name, build in test_dinov2.CASES.items()},
    **{f"{n}_dinov2_body": lambda a, s, n=n: test_dinov2.body(n) for n in test_dinov2.CLASSES},
    **test_multimodal.PAIRS,
    "vilt": lambda a, s: test_multimodal.vilt_mlm(s),
    "vilt_retrieval": lambda a, s: test_multimodal.vilt_retrieval(s),
    **{f"{name}_of_deberta": build for name, build in test_deberta.BODIES.items()},
    **{f"{name}_of_deberta": build for name, build in test_deberta.IMPORTED.items()},
    "mpnet_model": lambda a, s: test_mpnet.body(),
    **{f"{family}_body": lambda a, s, f=family: test_heads.body(f) for family in test_heads.BODIES},
    **{f"body_{name}": lambda a, s, b=build: b() for name, build in test_bodies.CASES.items()},
    "bert_model": lambda a, s: test_text_encoders.HEADLESS["bert"](),
    "roberta_model": lambda a, s: test_text_encoders.HEADLESS["roberta"](),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_family_comes_in_and_goes_out_unchanged(name, tmp_path):
    theirs = CASES[name]("sdpa", "right").theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    zoo = Zoo(str(tmp_path / "zoo"))
    package = import_checkpoint(zoo, f"hf:{tmp_path / 'theirs'}", ImportOptions())
    assert package.manifest.metrics["import.max_relative_difference"] < 1e-4
    export_package(package, tmp_path / "out")
    first, second = files(tmp_path / "theirs"), files(tmp_path / "out")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    configs = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "out")]
    assert configs[0] == configs[1]


def test_every_family_is_tried():
    known = architectures()
    names = {type(case("sdpa", "right").theirs).__name__ for case in CASES.values()}
    tried = {known[name].model_type for name in names}
    assert tried == {each.model_type for each in known.values()}
