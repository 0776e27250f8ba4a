"""Networks for images that can be brought, with the keys of their `config.json` that are read."""

from __future__ import annotations

from hybrid_core.models.brought import config_checks as c
from hybrid_core.models.brought.family import IMAGE, LOGITS, STATES, TRUNK, Family

_IMAGE: dict[str, c.Check] = {"num_channels": c.whole(1, 1_024), "hidden_act": c.ACTIVATION}
_VIT: dict[str, c.Check] = {
    **_IMAGE,
    **TRUNK,
    "image_size": c.whole(1, 4_096),
    "patch_size": c.whole(1, 4_096),
    "layer_norm_eps": c.EPSILON,
    "qkv_bias": c.flag,
    "pooler_output_size": c.optional(c.SIZE),
    "pooler_act": c.ACTIVATION,
}
_STAGES: dict[str, c.Check] = {**_IMAGE, "hidden_sizes": c.listed(c.SIZE, 64), "depths": c.listed(c.LAYERS, 64)}
_STAGE_NAMES = frozenset({"out_features", "out_indices", "stage_names"})


def _image_heads(prefix: str) -> dict[str, str]:
    return {f"{prefix}Model": STATES, f"{prefix}ForImageClassification": LOGITS}


IMAGE_FAMILIES: dict[str, Family] = {
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
