"""A catalog without torch: one model, one strategy with settings that tell the fake measurement what to do."""

import json

SETTINGS = ("one", "two", "three")


def setting(name, unavailable=None):
    return {
        "name": name,
        "sentence": name,
        "stage": 10,
        "exact": True,
        "expected_cost_s": 1,
        "unavailable": unavailable,
    }


def strategy(name, settings):
    facts = {"title": name, "purpose": "", "claimed": {}, "conflicts": []}
    return {"name": name, "settings": settings, **facts}


CATALOG = {
    "models": [
        {
            "name": "toy",
            "family": "toys",
            "title": "Toy",
            "description": "",
            "sizes": ["tiny"],
            "workloads": {"tiny": [{"name": "forward", "kind": "forward", "batch": 2, "length": 0, "new_tokens": 0}]},
            "facts": {"tiny": {}},
        }
    ],
    "strategies": [
        strategy("quantization", [setting(name) for name in SETTINGS]),
        strategy("kernel_fusion", [setting("compile", "no C++ compiler was found")]),
    ],
    "trial_overhead_s": 1.0,
    "selection_methods": [],
    "search_methods": [],
    "devices": [{"id": "cpu", "title": "CPU", "threads": 1, "max_threads": 2}],
    "environment": {},
}

if __name__ == "__main__":
    print(json.dumps(CATALOG))
