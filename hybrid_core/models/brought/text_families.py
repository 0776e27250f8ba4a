"""Decoders and encoders of text that can be brought, with the keys of their `config.json` that are read."""

from __future__ import annotations

from hybrid_core.models.brought import config_checks as c
from hybrid_core.models.brought.family import CAUSAL, LOGITS, STATES, TOKEN_LOGITS, TRUNK, Family

_TEXT: dict[str, c.Check] = {"vocab_size": c.VOCABULARY, "pad_token_id": c.TOKEN, "tie_word_embeddings": c.flag}
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
    **TRUNK,
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
    **TRUNK,
    "hidden_act": c.ACTIVATION,
    "max_position_embeddings": c.POSITIONS,
    "type_vocab_size": c.whole(1, 65_536),
    "layer_norm_eps": c.EPSILON,
}
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


TEXT_FAMILIES: dict[str, Family] = {
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
        },
        fixed={"reorder_and_upcast_attn": c.fixed(False)},
        skipped=_SUMMARY | {"attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx"},
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig",
        {"GPTNeoXForCausalLM": CAUSAL},
        {
            **_TEXT,
            **TRUNK,
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
        },
        skipped=frozenset({"qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds"}),
    ),
    "modernbert": Family(
        "ModernBertConfig",
        _text_heads("ModernBert"),
        {
            **_TEXT,
            **TRUNK,
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
}
