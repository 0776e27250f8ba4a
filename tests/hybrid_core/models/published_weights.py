"""Copies the weights of our decoders into the classes of transformers, name by name."""

from __future__ import annotations

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from hybrid_core.models.language import DecoderShape, DenseDecoder

RENAMED = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def published_twin(model: DenseDecoder) -> PreTrainedModel:
    """LlamaForCausalLM, or Qwen2ForCausalLM where query, key and value have biases, with the weights of `model`."""
    shape = model.shape
    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.max_length,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": rope_of(shape),
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
    }
    twin = Qwen2ForCausalLM(Qwen2Config(**sizes)) if shape.qkv_bias else LlamaForCausalLM(LlamaConfig(**sizes))
    missing = twin.load_state_dict(renamed(model.state_dict()), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    return twin.eval().requires_grad_(False)


def rope_of(shape: DecoderShape) -> dict[str, object]:
    if shape.rope is None:
        return {"rope_type": "default", "rope_theta": shape.theta}
    return {
        "rope_type": "llama3",
        "rope_theta": shape.theta,
        "factor": shape.rope.factor,
        "low_freq_factor": shape.rope.low,
        "high_freq_factor": shape.rope.high,
        "original_max_position_embeddings": shape.rope.original_length,
    }


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    outer = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    outer["head.weight"] = "lm_head.weight"
    names = {}
    for name in weights:
        published = outer.get(name, f"model.{name}")
        for ours, theirs in RENAMED.items():
            published = published.replace(f".{ours}.", f".{theirs}.")
        names[name] = published
    return {names[name]: value for name, value in weights.items()}
