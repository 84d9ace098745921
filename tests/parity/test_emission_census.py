"""Census of graphs: every class of transformers that is known has one, or a reason why not."""

import numpy as np
import pytest
import transformers

from orchestrator.errors import InputError
from orchestrator.inference.models import TorchModel
from orchestrator.modeling.huggingface.classes import architectures
from orchestrator.modeling.huggingface.values import Values
from orchestrator.quantization.backends.onnxruntime_cpu.session import OnnxModel
from orchestrator.quantization.emission.model import emit
from orchestrator.quantization.emission.outputs.heads import answering
from orchestrator.quantization.hub.checking import alone, sample
from orchestrator.quantization.hub.renaming import DIMENSIONS
from tests.unit.quantization.models import random_model, state_of

SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "pooler_hidden_size", "pooler_output_size"), 32),
    **dict.fromkeys(("projection_size", "conv_channels"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim"), 40),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("vocab_size", "decoder_vocab_size"), 61),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **{"num_key_value_heads": 2, "num_local_experts": 2, "image_size": 12, "patch_size": 4},
    **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2},
    **{"conv_dim": [16] * 7, "num_labels": 3},
}
WITHOUT_A_GRAPH = {
    **dict.fromkeys(("CLIPModel", "SiglipModel"), "two streams cannot be a graph: "),
    "SiglipTextModel": "last position of a text padded to 64 tokens without a mask",
    **{
        f"Mixtral{head}": r"encoder\.experts cannot be a graph: "
        for head in (
            *("Model", "ForCausalLM", "ForQuestionAnswering"),
            *("ForSequenceClassification", "ForTokenClassification"),
        )
    },
}


def shrink(content):
    """Return a config's content with small sizes."""
    small = {key: SMALL.get(key, value) for key, value in content.items()}
    for key in ("layer_types", "no_rope_layers"):
        small |= {key: small[key][:2]} if small.get(key) else {}
    sections = {key: shrink(value) for key, value in small.items() if key.endswith("_config")}
    return small | sections


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(architectures()))
def test_every_class_has_a_graph_or_a_reason(name):
    architecture = architectures()[name]
    known = getattr(transformers, name, None)
    made = transformers.AutoConfig.for_model(architecture.model_type)
    content = (made if known is None else known.config_class()).to_dict()
    masks = {"use_mask_token": True} if name == "BeitForMaskedImageModeling" else {}
    config = architecture.read(Values(shrink(content) | masks), "config.json")
    model = random_model(config, 0.1)
    if name in WITHOUT_A_GRAPH:
        with pytest.raises(InputError, match=WITHOUT_A_GRAPH[name]):
            emit(config, state_of(model))
        return
    emission = emit(config, state_of(model))
    assert emission.units
    graph = OnnxModel.from_bytes(emission.to_bytes(), batch_invariant=True)
    assert_equal(graph, TorchModel(model), config)


def assert_equal(graph, model, config):
    """Compare heads and embedding, of rows alone and, if they are texts, padded together."""
    shapes = {
        each.name: [DIMENSIONS.get(size, size) for size in each.shape]
        for each in graph.session.get_inputs()
    }
    names = {"embedding", *(head.name for head in answering(config))}
    batch = sample(config, shapes)
    for rows in [*alone(batch), *([batch] if "input_ids" in batch else [])]:
        expected, found = model.run(rows, names), graph.predict(rows)
        assert found.keys() == names
        for head in names:
            error = np.abs(found[head] - expected[head])
            if error.ndim == 3 and "input_ids" in rows:
                error *= rows["attention_mask"][..., None]
            assert error.max() <= 1e-5 * max(1.0, np.abs(expected[head]).max()), head
