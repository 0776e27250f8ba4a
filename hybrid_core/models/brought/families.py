"""Which architectures of `transformers` can be brought, and which keys of their `config.json` are read.

Each family lists the keys that reach its configuration class, each with a check; keys that change nothing in a forward
pass are skipped; some are accepted only with the value that leaves the computation as it is; every other key is refused
by name. So a key that a future version of `transformers` gives a meaning to can never slip in: that is how a field of
`config.json` came to run code (CVE-2026-4372). Class names come from this table, never from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from hybrid_core.models.brought import config_checks as c
from hybrid_core.models.brought.family import Family
from hybrid_core.models.brought.image_families import IMAGE_FAMILIES
from hybrid_core.models.brought.text_families import TEXT_FAMILIES

FAMILIES: dict[str, Family] = {**TEXT_FAMILIES, **IMAGE_FAMILIES}

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
