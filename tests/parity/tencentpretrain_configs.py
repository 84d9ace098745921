"""The model configurations that TencentPretrain and UER-py ship, their sizes shrunk.

Keys are their files below ``models/``. Numbers of layers, heads and widths are small ones; options
that decide what is computed are as in the files.
"""

TEXT = {
    "emb_size": 32, "hidden_size": 32, "feedforward_size": 48, "heads_num": 4, "layers_num": 2,
    "max_seq_length": 16, "dropout": 0.1, "encoder": "transformer", "hidden_act": "gelu",
    "mask": "fully_visible",
}  # fmt: skip
BERT = TEXT | {"embedding": ["word", "pos", "seg"], "target": ["mlm", "sp"]}
BERT |= {"data_processor": "bert", "tie_weights": True}
XLM_R = TEXT | {"embedding": ["word", "pos", "seg"], "target": ["mlm"], "data_processor": "mlm"}
ALBERT = BERT | {"emb_size": 20, "hidden_act": "relu", "dropout": 0.0, "tie_weights": False}
ALBERT |= {"factorized_embedding_parameterization": True, "parameter_sharing": True}
ALBERT |= {"data_processor": "albert"}
GPT2 = TEXT | {"embedding": ["word", "pos"], "target": ["lm"], "data_processor": "lm"}
GPT2 |= {"remove_embedding_layernorm": True, "layernorm_positioning": "pre", "mask": "causal"}
GPT2 |= {"hidden_act": "gelu_fast", "tie_weights": True}
LLAMA = TEXT | {"embedding": ["word"], "target": ["lm"], "data_processor": "lm", "dropout": 0.0}
LLAMA |= {"remove_embedding_layernorm": True, "remove_transformer_bias": True, "mask": "causal"}
LLAMA |= {"rotary_position_embedding": True, "feed_forward": "gated", "hidden_act": "silu"}
LLAMA |= {"layernorm_positioning": "pre", "layernorm": "rms"}
BLOOM = GPT2 | {"embedding": ["word"], "alibi_position_embedding": True, "hidden_act": "gelu"}
BLOOM |= {"layer_number_scale": True, "layernorm": "normal_torch", "layernorm_eps": 1e-5}
PAIR = TEXT | {"decoder": "transformer", "decoder_layers_num": 3, "target": ["lm"]}
T5 = PAIR | {"embedding": ["word"], "tgt_embedding": ["word"], "hidden_act": "relu"}
T5 |= {"relative_position_embedding": True, "remove_embedding_layernorm": True, "layernorm": "t5"}
T5 |= {"layernorm_positioning": "pre", "remove_attention_scale": True, "share_embedding": True}
T5 |= {"remove_transformer_bias": True, "data_processor": "t5", "tie_weights": True}
T5_11 = T5 | {"feed_forward": "gated", "hidden_act": "gelu_fast", "tie_weights": False}
T5_11 |= {"attention_head_size": 6, "dropout": 0.0}
BART = PAIR | {"embedding": ["word", "pos"], "tgt_embedding": ["word", "pos"]}
BART |= {"share_embedding": True, "has_lmtarget_bias": True, "tie_weights": True}
BART |= {"data_processor": "bart"}
WAVES = {"embedding": ["word", "sinusoidalpos"], "tgt_embedding": ["word", "sinusoidalpos"]}
PEGASUS = PAIR | WAVES | {"hidden_act": "relu", "has_lmtarget_bias": True, "tie_weights": True}
PEGASUS |= {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
PEGASUS |= {"share_embedding": True, "data_processor": "gsg"}
TRANSFORMER = PAIR | WAVES | {"hidden_act": "relu", "tie_weights": True, "data_processor": "mt"}
RECURRENT = {"emb_size": 32, "hidden_size": 32, "layers_num": 2, "dropout": 0.1}
RECURRENT |= {"max_seq_length": 16, "data_processor": "lm", "embedding": ["word"]}
RECURRENT |= {"remove_embedding_layernorm": True, "target": ["lm"]}
ELMO = RECURRENT | {"emb_size": 20, "hidden_size": 36, "encoder": "bilstm"}
ELMO |= {"data_processor": "bilm", "target": ["bilm"]}
GATED = RECURRENT | {"emb_size": 12, "hidden_size": 31, "layers_num": 5, "encoder": "gatedcnn"}
GATED |= {"kernel_size": 4, "block_size": 2}
IMAGE = TEXT | {"image_height": 16, "image_width": 16, "patch_size": 4, "max_seq_length": 17}
VIT = IMAGE | {"embedding": ["patch", "pos"], "target": ["cls"], "data_processor": "vit"}
VIT |= {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
CODES = {"is_gumbel": False, "is_transformer": True, "image_vocab_size": 61, "frame_size": 16}
BEIT = IMAGE | {"embedding": ["masked_patch", "pos"], "target": ["mlm"], "data_processor": "beit"}
BEIT |= {"tokenizer": "vqgan", "image_preprocess": ["crop"], "image_tokenizer": CODES}
VILT = IMAGE | {"embedding": ["word_patch", "pos", "seg"], "target": ["mlm", "sp"]}
VILT |= {"data_processor": "vilt", "max_seq_length": 40}
DALLE = TEXT | {"embedding": ["word", "pos", "seg"], "target": ["lm"], "mask": "prefix"}
DALLE |= {"image_height": 256, "image_width": 256, "patch_size": 16, "image_tokenizer": CODES}
DALLE |= {"data_processor": "dalle", "tokenizer": "multimodal"}
TALK2FACE = DALLE | {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
TALK2FACE |= {"hidden_act": "gelu_fast", "seq_length": 334, "tokenizer": "text_image"}
del TALK2FACE["data_processor"]
S2T = PAIR | {"embedding": ["speech", "sinusoidalpos"], "max_audio_frames": 60}
S2T |= {"tgt_embedding": ["word", "sinusoidalpos"], "hidden_act": "relu", "tie_weights": True}
S2T |= {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
S2T |= {"conv_channels": [96, 64], "audio_feature_size": 10, "conv_kernel_sizes": [5, 5]}
S2T |= {"data_processor": "s2t", "has_lmtarget_bias": False, "label_smoothing": 0.1}
S2T |= {"optimizer": "adamw", "scheduler": "inverse_sqrt", "ignore_index": True, "reduce": False}
S2T |= {"audio_preprocess": ["normalize_means"], "specaugment": {"freq_mask_F": 27}}
STREAM = {k: v for k, v in TEXT.items() if k != "dropout"}
STREAM |= {"embedding": ["word", "pos"], "pooling": "first"}
SEEN = STREAM | {"emb_size": 24, "hidden_size": 24, "embedding": ["patch", "pos"]}
SEEN |= {"hidden_act": "gelu_fast", "layernorm_positioning": "pre", "max_seq_length": 17}
CLIP = {"embedding": ["dual"], "encoder": "dual", "target": ["clr"], "data_processor": "clip"}
CLIP |= {"image_height": 16, "image_width": 16, "patch_size": 4, "feature_size": 20}
CLIP |= {"projection": True, "tie_weights": False, "dropout": 0.0}
CLIP_BASE = CLIP | {
    "stream_0": STREAM | {"remove_embedding_layernorm": False, "layernorm_positioning": "post"},
    "stream_1": SEEN | {"remove_embedding_layernorm": True},
}
CLIP_LARGE = CLIP | {
    "stream_0": STREAM
    | {"remove_embedding_layernorm": True, "layernorm_positioning": "pre"}
    | {"mask": "causal", "pooling": "last"},
    "stream_1": SEEN | {"remove_embedding_layernorm": False},
}
TWIN = {**TEXT, "embedding": ["word", "pos", "seg"], "vocab_size": 21128}
SBERT = {"stream_0": TWIN, "stream_1": TWIN, "embedding": ["dual"], "encoder": "dual"}
SBERT |= {"pooling": "first", "tie_weights": True, "dropout": 0.1}
LSTM = {"emb_size": 32, "hidden_size": 32, "layers_num": 2, "dropout": 0.1, "vocab_size": 21128}
LSTM |= {"embedding": "word", "encoder": "lstm"}
SBERT_LSTM = {"stream_0": LSTM, "stream_1": LSTM, "embedding": "dual", "encoder": "dual"}
SBERT_LSTM |= {"pooling": "mean", "tie_weights": True}

SHIPPED = {
    **{f"bert/{size}_config.json": BERT for size in ("tiny", "mini", "small", "medium", "base")},
    **{f"bert/{size}_config.json": BERT for size in ("large", "xlarge")},
    **{f"xlm-roberta/{size}_config.json": XLM_R for size in ("base", "large")},
    **{f"albert/{size}_config.json": ALBERT for size in ("base", "large", "xlarge", "xxlarge")},
    "megatron/bert_3.9B_config.json": BERT,
    "megatron/gpt2_8.3B_config.json": GPT2,
    **{f"gpt2/{size}config.json": GPT2 for size in ("", "distil_", "medium_", "large_", "xlarge_")},
    **{f"llama/{size}_config.json": LLAMA for size in ("7b", "13b", "33b", "65b")},
    "llama/70b_config.json": LLAMA | {"local_kv_heads_num": 2},
    "llama2/7b_config.json": LLAMA,
    "llama2/70b_config.json": LLAMA | {"local_kv_heads_num": 2},
    **{f"bloom/{size}_config.json": BLOOM for size in ("1b1", "7b1", "175b")},
    **{f"t5/{size}_config.json": T5 for size in ("small", "base", "large")},
    **{f"t5/{size}_config.json": T5 | {"attention_head_size": 16} for size in ("3b", "11b")},
    **{f"t5-v1_1/{size}_config.json": T5_11 for size in ("small", "base", "large")},
    **{f"t5-v1_1/{size}_config.json": T5_11 for size in ("xlarge", "xxlarge")},
    **{f"mt5/{size}_config.json": T5_11 for size in ("small", "base", "large", "xlarge")},
    "mt5/xxlarge_config.json": T5_11,
    **{f"bart/{size}_config.json": BART for size in ("base", "large")},
    **{f"pegasus/{size}_config.json": PEGASUS for size in ("base", "large")},
    "transformer/base_config.json": TRANSFORMER,
    "transformer/big_config.json": TRANSFORMER | {"dropout": 0.3},
    "encoder_decoder_config.json": TRANSFORMER | {"tie_weights": False},
    "rnn/lstm_config.json": RECURRENT | {"encoder": "lstm"},
    "rnn/gru_config.json": RECURRENT | {"encoder": "gru"},
    "rnn/bilstm_config.json": ELMO,
    "cnn/gatedcnn_9_config.json": GATED,
    "cnn/gatedcnn_13_config.json": GATED | {"hidden_size": 33, "layers_num": 6},
    **{
        f"vit/{size}-224_config.json": VIT
        for size in ("base-16", "base-32", "large-16", "large-32", "huge-14")
    },
    "vit/base-16_config.json": VIT
    | {"remove_embedding_layernorm": False, "layernorm_positioning": "post", "max_seq_length": 30},
    "beit/base_config.json": BEIT,
    "vilt/base_config.json": VILT,
    "dall-e/base_config.json": DALLE,
    "talk2face/base_config.json": TALK2FACE,
    "s2t/small_config.json": S2T,
    "s2t/small_config_infer.json": S2T | {"dropout": 0.0},
    "clip/base-16_config.json": CLIP_BASE,
    "clip/base-32_config.json": CLIP_BASE,
    "clip/large-14_config.json": CLIP_LARGE,
    "sbert/base_config.json": SBERT,
    "sbert/large_config.json": SBERT,
    "sbert/lstm_config.json": SBERT_LSTM,
}
"""File → options, of those that are imported."""

NARROW = S2T | {"conv_channels": [96, 32]}
LLAVA = LLAMA | {"embedding": ["image_text"], "image_text_emb": {}, "data_processor": "llava"}
XINAN = BERT | {"decoder": "transformer", "tgt_embedding": ["word", "pos", "seg"]}
REFUSED = {
    "s2t/base_config.json": (NARROW, "last convolution over sound makes 16 values"),
    "s2t/medium_config.json": (NARROW, "conv_channels must end with 64"),
    "s2t/large_config.json": (NARROW, "their code cannot add the positions either"),
    "llava/7b_config.json": (LLAVA, "Missing here: a picture's encoder inside the embedding"),
    "qwen/7b_config.json": (LLAMA | {"use_logn_attn": True}, "Missing here: queries scaled"),
    "qwen/1_8b_config.json": (LLAMA | {"use_dynamic_ntk": True}, "Missing here: a rotary base"),
    "xinan/base_config.json": (
        XINAN | {"target": ["mlm", "cls", "ner", "decode"]},
        "Missing here: target `ner`",
    ),
}
"""File → options and what the refusal says."""
