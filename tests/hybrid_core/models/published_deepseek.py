"""Copies the weights of our DeepSeek into DeepseekV3ForCausalLM of transformers, name by name."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from hybrid_core.models.deepseek import DeepSeek, DeepSeekShape

RENAMED = {
    "embedding.": "model.embed_tokens.",
    "norm.": "model.norm.",
    "head.": "lm_head.",
    "attention_norm.": "input_layernorm.",
    "feed_forward_norm.": "post_attention_layernorm.",
    "attention.query.0.": "self_attn.q_a_proj.",
    "attention.query.1.": "self_attn.q_a_layernorm.",
    "attention.query.2.": "self_attn.q_b_proj.",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.compress.": "self_attn.kv_a_proj_with_mqa.",
    "attention.latent_norm.": "self_attn.kv_a_layernorm.",
    "attention.expand.": "self_attn.kv_b_proj.",
    "attention.output.": "self_attn.o_proj.",
    "feed_forward.router.weight": "mlp.gate.weight",
    "feed_forward.router.selection_bias": "mlp.gate.e_score_correction_bias",
    "feed_forward.shared.": "mlp.shared_experts.",
    "feed_forward.": "mlp.",
}
FEED_FORWARD = {"gate.weight": "gate_proj.weight", "up.weight": "up_proj.weight", "down.weight": "down_proj.weight"}


def published_twin(model: DeepSeek) -> DeepseekV3ForCausalLM:
    """The published class with the weights of `model`."""
    twin = DeepseekV3ForCausalLM(published_config(model.shape))
    twin.load_state_dict(published_weights(model), strict=True)
    return twin.eval().requires_grad_(False)


def published_config(shape: DeepSeekShape) -> DeepseekV3Config:
    attention, routing = shape.attention, shape.routing
    return DeepseekV3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        moe_intermediate_size=routing.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.heads,
        n_shared_experts=routing.shared,
        n_routed_experts=routing.experts,
        routed_scaling_factor=routing.scaling,
        kv_lora_rank=attention.latent,
        q_lora_rank=attention.query_rank,
        qk_rope_head_dim=attention.rope,
        v_head_dim=attention.value,
        qk_nope_head_dim=attention.plain,
        n_group=routing.groups,
        topk_group=routing.groups_per_token,
        num_experts_per_tok=routing.experts_per_token,
        first_k_dense_replace=shape.dense_layers,
        max_position_embeddings=shape.max_length,
        rms_norm_eps=shape.norm_eps,
        rope_parameters=published_rope(shape),
        num_mtp_layers=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
        experts_implementation="eager",
    )


def published_rope(shape: DeepSeekShape) -> dict[str, object]:
    if shape.yarn is None:
        return {"rope_type": "default", "rope_theta": shape.theta}
    return {
        "rope_type": "yarn",
        "rope_theta": shape.theta,
        "factor": shape.yarn.factor,
        "original_max_position_embeddings": shape.yarn.original_length,
        "beta_fast": shape.yarn.fast,
        "beta_slow": shape.yarn.slow,
        "mscale": shape.yarn.mscale,
        "mscale_all_dim": shape.yarn.mscale_all_dim,
    }


def published_weights(model: DeepSeek) -> dict[str, Tensor]:
    """Every weight under its published name; the experts of a layer are two tensors there."""
    ours = model.state_dict()
    weights = {published_name(name): value for name, value in ours.items() if ".experts." not in name}
    for index in range(model.shape.dense_layers, model.shape.layers):
        gate, up, down = (
            torch.stack(
                [
                    ours[f"layers.{index}.feed_forward.experts.{number}.{part}.weight"]
                    for number in range(model.shape.routing.experts)
                ]
            )
            for part in ("gate", "up", "down")
        )
        weights[f"model.layers.{index}.mlp.experts.gate_up_proj"] = torch.cat((gate, up), dim=1)
        weights[f"model.layers.{index}.mlp.experts.down_proj"] = down
    return weights


def published_name(name: str) -> str:
    prefix, rest = "", name
    if name.startswith("layers."):
        _, index, rest = name.split(".", 2)
        prefix = f"model.layers.{index}."
    start = next(start for start in RENAMED if rest.startswith(start))
    rest = RENAMED[start] + rest.removeprefix(start)
    if start in ("feed_forward.", "feed_forward.shared."):
        rest = rest.replace(*next((ours, theirs) for ours, theirs in FEED_FORWARD.items() if rest.endswith(ours)))
    return prefix + rest
