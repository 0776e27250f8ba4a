"""Tiny models of the transformers library with eager attention and random weights, and how each is called."""

from functools import partial

import torch
import transformers

COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128, "attn_implementation": "eager",
    "initializer_range": 0.3,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
ENCODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "attn_implementation": "eager",
    "initializer_range": 0.3,
}  # fmt: skip
DECODERS = {
    "Llama": COMMON,
    "Qwen2": COMMON,
    "Qwen3": {**COMMON, "head_dim": 8},
    "DeepseekV3": {**COMMON, **LATENT},
    "Gemma2": {**COMMON, "head_dim": 8},
}


def build(family, layers=2):
    """The model in eval mode, with the same random weights at every call; large ones, so that attention matters."""
    torch.manual_seed(0)
    deep = {"num_hidden_layers": layers}
    if family == "ViT":
        config = transformers.ViTConfig(**{**ENCODER, **deep}, image_size=16, patch_size=4)
        return transformers.ViTForImageClassification(config).eval()
    if family == "Bert":
        return transformers.BertModel(transformers.BertConfig(**{**ENCODER, **deep}, vocab_size=64)).eval()
    config = getattr(transformers, f"{family}Config")(**{**DECODERS[family], **deep})
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def inputs(family, rows=10, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if family == "ViT":
        return (torch.randn(batch, 3, 16, 16, generator=generator),)
    return (torch.randint(0, 64, (batch, rows), generator=generator),)


def prefill(model, given):
    return model(given[0], use_cache=False).logits


def decode(model, given):
    """Read everything, then feed the first three tokens again one by one with the cache."""
    out = model(given[0], use_cache=True)
    logits, cache = [out.logits], out.past_key_values
    for i in range(3):
        logits.append(model(given[0][:, i : i + 1], past_key_values=cache, use_cache=True).logits)
    return torch.cat(logits, dim=1)


def encode(model, given, output):
    return getattr(model(given[0]), output)


def calls(family):
    """Name to call, for the ways a family is used."""
    if family == "ViT":
        return {"forward": partial(encode, output="logits")}
    if family == "Bert":
        return {"forward": partial(encode, output="last_hidden_state")}
    return {"prefill": prefill, "decode": decode}
