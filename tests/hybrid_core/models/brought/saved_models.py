"""Small random models of every family that can be brought, as `transformers` itself builds and saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers

TRUNK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**TRUNK, "vocab_size": 96}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
ENCODER = {**TEXT, "max_position_embeddings": 40}
VIT = {**TRUNK, "image_size": 16, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
EXPERTS = {
    "moe_intermediate_size": 16, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "first_k_dense_replace": 1, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip

# name of the folder: architecture, settings of its configuration
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama_scaled": (
        "LlamaForCausalLM",
        {
            **GROUPED,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            },
        },
    ),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 6}),
    "qwen2": ("Qwen2ForCausalLM", {k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "sliding_window": 6}),
    "phi3": ("Phi3ForCausalLM", {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64, **TOKENS}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**TEXT, "max_position_embeddings": 64}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {**TEXT, **EXPERTS}),
    "bert": ("BertModel", ENCODER),
    "bert_mask": ("BertForMaskedLM", ENCODER),
    "bert_classes": ("BertForSequenceClassification", {**ENCODER, "num_labels": 5}),
    "bert_tags": ("BertForTokenClassification", {**ENCODER, "num_labels": 3}),
    "roberta": ("RobertaForMaskedLM", ENCODER),
    "xlm_roberta": ("XLMRobertaForSequenceClassification", ENCODER),
    "electra": ("ElectraModel", {**ENCODER, "embedding_size": 16}),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 96, "max_position_embeddings": 40},
    ),
    "modernbert": ("ModernBertForMaskedLM", {**TEXT, **TOKENS, "max_position_embeddings": 64, "local_attention": 8}),
    "vit": ("ViTForImageClassification", {**VIT, "num_labels": 7}),
    "vit_states": ("ViTModel", VIT),
    "deit": ("DeiTForImageClassification", VIT),
    "resnet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "convnext": ("ConvNextForImageClassification", {**STAGES, "num_stages": 2, "image_size": 32}),
}  # fmt: skip


def save_model(name: str, folder: Path) -> Path:
    architecture, settings = MODELS[name]
    model_class = getattr(transformers, architecture)
    torch.manual_seed(7)
    model = model_class(model_class.config_class(**settings)).eval()
    model.save_pretrained(folder)
    return folder
