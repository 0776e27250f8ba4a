"""What a combination of the three switches is called, in events and on pages; standard library only.

The switches add up: without any of them a group's mean is the only yardstick, which is GRPO. Names are the
literature's; what each does here, and where the document's expansion of the name differs, stands in its own file.
"""

from __future__ import annotations

from hybrid_core.config import HybridOptimizationConfig

# VAPO first: the critic decides most about what runs.
SWITCHES = {"VAPO": "enable_vapo", "DAPO": "enable_dapo", "ORZ": "enable_orz"}
WITHOUT_ANY = "GRPO"


def variant_name(options: HybridOptimizationConfig) -> str:
    """The methods that run, for example "VAPO + DAPO + ORZ", or "GRPO" where all three are off.

    >>> variant_name(HybridOptimizationConfig(enable_vapo=False, enable_orz=False))
    'DAPO'
    """
    return " + ".join(name for name, switch in SWITCHES.items() if getattr(options, switch)) or WITHOUT_ANY


def uses_critic(options: HybridOptimizationConfig) -> bool:
    """True when a value network takes part: VAPO's pretrained one, or the plain one that shaping needs to act."""
    return options.enable_vapo or options.enable_orz
