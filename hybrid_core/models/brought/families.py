"""Which architectures of `transformers` can be brought, and which keys of their `config.json` are read.

Each family lists the keys that reach its configuration class, each with a check; keys that change nothing in a forward
pass are skipped; some are accepted only with the value that leaves the computation as it is; every other key is refused
by name. So a key that a future version of `transformers` gives a meaning to can never slip in: that is how a field of
`config.json` came to run code (CVE-2026-4372). Class names come from this table, never from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_core.models.brought import config_checks as c

CAUSAL, STATES, TOKEN_LOGITS, LOGITS = "causal", "states", "token_logits", "logits"
TEXT, IMAGE = "text", "image"


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    `keys` are passed on after their check. `architectures` maps a class name to what its forward gives: logits of every
    token (`causal`, `token_logits`), of the whole input (`logits`), or hidden states (`states`).
    """

    config_class: str
    architectures: Mapping[str, str]
    keys: Mapping[str, c.Check]
    reads: str = TEXT
    fixed: Mapping[str, c.Check] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()


# Names that no forward pass in eval mode depends on. The two with an underscore were written by older versions of
# transformers itself; every other key that begins with one is refused.
SKIPPED = frozenset(
    """_name_or_path _attn_implementation_autoset architectures model_type transformers_version dtype torch_dtype
    initializer_range initializer_factor use_cache bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id
    unk_token_id decoder_start_token_id attention_dropout hidden_dropout hidden_dropout_prob classifier_dropout
    attention_probs_dropout_prob dropout label2id problem_type task_specific_params finetuning_task
    gradient_checkpointing return_dict pretraining_tp output_past tokenizer_class""".split()
)
FIXED: Mapping[str, c.Check] = {
    "add_cross_attention": c.fixed(False),
    "chunk_size_feed_forward": c.fixed(0),
    "is_decoder": c.fixed(False),
    "is_encoder_decoder": c.fixed(False),
    "output_attentions": c.fixed(False),
    "output_hidden_states": c.fixed(False),
    "position_embedding_type": c.fixed("absolute"),
    "pruned_heads": c.fixed({}),
    "torchscript": c.fixed(False),
    "use_bfloat16": c.fixed(False),
}

_TEXT: dict[str, c.Check] = {"vocab_size": c.VOCABULARY, "pad_token_id": c.TOKEN, "tie_word_embeddings": c.flag}
_TRUNK: dict[str, c.Check] = {
    "hidden_size": c.SIZE,
    "num_hidden_layers": c.LAYERS,
    "num_attention_heads": c.HEADS,
    "intermediate_size": c.SIZE,
}
_WINDOW: dict[str, c.Check] = {
    "sliding_window": c.optional(c.POSITIONS),
    "layer_types": c.optional(c.listed(c.choice(*c.ATTENTION_KINDS))),
}
_ROTARY: dict[str, c.Check] = {
    "max_position_embeddings": c.POSITIONS,
    "rope_parameters": c.optional(c.rope),
    "rope_scaling": c.optional(c.rope),
    "rope_theta": c.number(1.0),
}
_DECODER: dict[str, c.Check] = {
    **_TEXT,
    **_TRUNK,
    **_ROTARY,
    "num_key_value_heads": c.optional(c.HEADS),
    "head_dim": c.optional(c.SIZE),
    "hidden_act": c.ACTIVATION,
    "rms_norm_eps": c.EPSILON,
    "attention_bias": c.flag,
}
_QWEN: dict[str, c.Check] = {**_WINDOW, "use_sliding_window": c.flag, "max_window_layers": c.whole(0, 1_000)}
_BERT: dict[str, c.Check] = {
    **_TEXT,
    **_TRUNK,
    "hidden_act": c.ACTIVATION,
    "max_position_embeddings": c.POSITIONS,
    "type_vocab_size": c.whole(1, 65_536),
    "layer_norm_eps": c.EPSILON,
}
_IMAGE: dict[str, c.Check] = {"num_channels": c.whole(1, 1_024), "hidden_act": c.ACTIVATION}
_VIT: dict[str, c.Check] = {
    **_IMAGE,
    **_TRUNK,
    "image_size": c.whole(1, 4_096),
    "patch_size": c.whole(1, 4_096),
    "layer_norm_eps": c.EPSILON,
    "qkv_bias": c.flag,
    "pooler_output_size": c.optional(c.SIZE),
    "pooler_act": c.ACTIVATION,
}
_STAGES: dict[str, c.Check] = {**_IMAGE, "hidden_sizes": c.listed(c.SIZE, 64), "depths": c.listed(c.LAYERS, 64)}
_STAGE_NAMES = frozenset({"out_features", "out_indices", "stage_names"})
_SUMMARY = frozenset(
    """summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels summary_type
    summary_use_proj""".split()
)


def _text_heads(prefix: str) -> dict[str, str]:
    return {
        f"{prefix}Model": STATES,
        f"{prefix}ForMaskedLM": TOKEN_LOGITS,
        f"{prefix}ForTokenClassification": TOKEN_LOGITS,
        f"{prefix}ForSequenceClassification": LOGITS,
    }


def _image_heads(prefix: str) -> dict[str, str]:
    return {f"{prefix}Model": STATES, f"{prefix}ForImageClassification": LOGITS}


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaConfig", {"LlamaForCausalLM": CAUSAL}, {**_DECODER, "mlp_bias": c.flag}),
    "mistral": Family("MistralConfig", {"MistralForCausalLM": CAUSAL}, {**_DECODER, **_WINDOW}),
    "qwen2": Family("Qwen2Config", {"Qwen2ForCausalLM": CAUSAL}, {**_DECODER, **_QWEN}),
    "qwen3": Family("Qwen3Config", {"Qwen3ForCausalLM": CAUSAL}, {**_DECODER, **_QWEN}),
    "gemma2": Family(
        "Gemma2Config",
        {"Gemma2ForCausalLM": CAUSAL},
        {
            **_DECODER,
            **_WINDOW,
            "hidden_activation": c.ACTIVATION,
            "query_pre_attn_scalar": c.number(1e-6, 1e6),
            "attn_logit_softcapping": c.optional(c.number(1e-6, 1e6)),
            "final_logit_softcapping": c.optional(c.number(1e-6, 1e6)),
        },
        fixed={"use_bidirectional_attention": c.fixed(None, False)},
        skipped=frozenset({"cache_implementation"}),
    ),
    "phi3": Family(
        "Phi3Config",
        {"Phi3ForCausalLM": CAUSAL},
        {
            **_DECODER,
            "sliding_window": c.optional(c.POSITIONS),
            "original_max_position_embeddings": c.POSITIONS,
            "partial_rotary_factor": c.number(0.0, 1.0),
        },
        skipped=frozenset({"embd_pdrop", "resid_pdrop"}),
    ),
    "gpt2": Family(
        "GPT2Config",
        {"GPT2LMHeadModel": CAUSAL},
        {
            **_TEXT,
            "n_embd": c.SIZE,
            "n_layer": c.LAYERS,
            "n_head": c.HEADS,
            "n_inner": c.optional(c.SIZE),
            "n_positions": c.POSITIONS,
            "activation_function": c.ACTIVATION,
            "layer_norm_epsilon": c.EPSILON,
            "scale_attn_weights": c.flag,
            "scale_attn_by_inverse_layer_idx": c.flag,
            "reorder_and_upcast_attn": c.flag,
        },
        skipped=_SUMMARY | {"attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx"},
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig",
        {"GPTNeoXForCausalLM": CAUSAL},
        {
            **_TEXT,
            **_TRUNK,
            **_ROTARY,
            "rotary_pct": c.number(0.0, 1.0),
            "rotary_emb_base": c.number(1.0),
            "hidden_act": c.ACTIVATION,
            "layer_norm_eps": c.EPSILON,
            "use_parallel_residual": c.flag,
            "attention_bias": c.flag,
        },
    ),
    "deepseek_v3": Family(
        "DeepseekV3Config",
        {"DeepseekV3ForCausalLM": CAUSAL},
        {
            **_DECODER,
            "moe_intermediate_size": c.SIZE,
            "n_shared_experts": c.whole(1, 1_024),
            "n_routed_experts": c.whole(1, 4_096),
            "num_experts_per_tok": c.whole(1, 4_096),
            "n_group": c.whole(1, 1_024),
            "topk_group": c.whole(1, 1_024),
            "norm_topk_prob": c.flag,
            "routed_scaling_factor": c.number(0.0, 1e6),
            "first_k_dense_replace": c.whole(0, 1_000),
            "kv_lora_rank": c.SIZE,
            "q_lora_rank": c.optional(c.SIZE),
            "qk_head_dim": c.SIZE,
            "qk_nope_head_dim": c.SIZE,
            "qk_rope_head_dim": c.SIZE,
            "v_head_dim": c.SIZE,
            "rope_interleave": c.flag,
        },
        fixed={
            "moe_layer_freq": c.fixed(1),
            "output_router_logits": c.fixed(False),
            "scoring_func": c.fixed("sigmoid"),
            "topk_method": c.fixed("noaux_tc"),
        },
        skipped=frozenset({"num_nextn_predict_layers", "ep_size", "aux_loss_alpha", "seq_aux"}),
    ),
    "bert": Family("BertConfig", _text_heads("Bert"), _BERT),
    "roberta": Family("RobertaConfig", _text_heads("Roberta"), _BERT),
    "xlm-roberta": Family("XLMRobertaConfig", _text_heads("XLMRoberta"), _BERT),
    "electra": Family(
        "ElectraConfig",
        _text_heads("Electra"),
        {**_BERT, "embedding_size": c.SIZE},
        skipped=_SUMMARY,
    ),
    "distilbert": Family(
        "DistilBertConfig",
        _text_heads("DistilBert"),
        {
            **_TEXT,
            "dim": c.SIZE,
            "n_layers": c.LAYERS,
            "n_heads": c.HEADS,
            "hidden_dim": c.SIZE,
            "activation": c.ACTIVATION,
            "max_position_embeddings": c.POSITIONS,
            "sinusoidal_pos_embds": c.flag,
        },
        skipped=frozenset({"qa_dropout", "seq_classif_dropout"}),
    ),
    "modernbert": Family(
        "ModernBertConfig",
        _text_heads("ModernBert"),
        {
            **_TEXT,
            **_TRUNK,
            **_ROTARY,
            "hidden_activation": c.ACTIVATION,
            "norm_eps": c.EPSILON,
            "norm_bias": c.flag,
            "attention_bias": c.flag,
            "mlp_bias": c.flag,
            "decoder_bias": c.flag,
            "classifier_bias": c.flag,
            "classifier_activation": c.ACTIVATION,
            "classifier_pooling": c.choice("cls", "mean"),
            "layer_types": c.optional(c.listed(c.choice(*c.ATTENTION_KINDS))),
            "local_attention": c.POSITIONS,
            "global_attn_every_n_layers": c.whole(1, 1_000),
            "global_rope_theta": c.number(1.0),
            "local_rope_theta": c.optional(c.number(1.0)),
        },
        fixed={"sparse_prediction": c.fixed(False)},
        skipped=frozenset(
            """embedding_dropout mlp_dropout initializer_cutoff_factor sparse_pred_ignore_index reference_compile
            deterministic_flash_attn repad_logits_with_grad""".split()
        ),
    ),
    "vit": Family("ViTConfig", _image_heads("ViT"), _VIT, IMAGE, skipped=frozenset({"encoder_stride"})),
    "deit": Family("DeiTConfig", _image_heads("DeiT"), _VIT, IMAGE, skipped=frozenset({"encoder_stride"})),
    "resnet": Family(
        "ResNetConfig",
        _image_heads("ResNet"),
        {
            **_STAGES,
            "embedding_size": c.SIZE,
            "layer_type": c.choice("basic", "bottleneck"),
            "downsample_in_first_stage": c.flag,
            "downsample_in_bottleneck": c.flag,
        },
        IMAGE,
        skipped=_STAGE_NAMES,
    ),
    "convnext": Family(
        "ConvNextConfig",
        _image_heads("ConvNext"),
        {
            **_STAGES,
            "num_stages": c.whole(1, 64),
            "patch_size": c.whole(1, 4_096),
            "layer_norm_eps": c.EPSILON,
            "layer_scale_init_value": c.number(0.0, 1e6),
            "image_size": c.whole(1, 4_096),
        },
        IMAGE,
        skipped=_STAGE_NAMES | {"drop_path_rate"},
    ),
}


def known_architectures() -> tuple[str, ...]:
    """Every class name that can be brought, in the table's order."""
    return tuple(name for family in FAMILIES.values() for name in family.architectures)


def table() -> list[dict[str, Any]]:
    """What the page lists: model type, class, what its forward gives."""
    return [
        {"model_type": kind, "architecture": name, "gives": gives, "reads": family.reads}
        for kind, family in FAMILIES.items()
        for name, gives in family.architectures.items()
    ]
