"""What leaves a run: a recipe as JSON that says where its figures come from, and a script that re-applies it.

Standard library only, because the hub writes both and never loads torch. The script holds no measured object: it
builds the registry model, applies the recipe, and checks the result against the untouched model before anyone trusts
it. It is written so that it runs as a file and pasted line by line into an interpreter. Every name from outside
enters it as an ASCII Python literal, so no name can become code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_core.errors import InvalidInput
from hybrid_core.records import Estimate, Measurement, Recipe, Subject, to_json

FORMAT = "hybrid-optimization recipe"
FORMAT_VERSION = 1
FIGURES = ("speed_improvement", "memory_efficiency", "accuracy_preservation", "latency_ms", "baseline_latency_ms")
COUNTS = ("peak_bytes", "baseline_peak_bytes", "weight_bytes", "baseline_weight_bytes", "max_abs_error")
VERSION_KEYS = (
    *("python", "torch", "cuda", "cudnn", "driver"),
    *("numpy", "torchao", "onnxruntime", "openvino", "nncf", "transformers"),
)


def recipe_json(
    run: Mapping[str, Any],
    recipe: Recipe,
    measurement: Measurement | Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The recipe with what was measured, on what, and with which versions; `json.dumps` accepts it.

    `run` holds the facts of the run (run_id, model, size, workload, device, threads, seed, ...), kept as they are.
    """
    facts = _as_mapping(measurement)
    answer: dict[str, Any] = to_json(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "recipe": recipe,
            "key": recipe.key,
            "run": run,
            "figures": {name: facts[name] for name in FIGURES if name in facts},
            "counts": {name: facts[name] for name in COUNTS if name in facts},
            "quality": facts.get("quality"),
            "changes": facts.get("changes", ()),
            "warnings": facts.get("warnings", ()),
            "versions": {key: environment[key] for key in VERSION_KEYS if key in environment},
            "device": environment.get("device", run.get("device")),
            "decisions": environment.get("decisions", {}),
            "environment": environment,
        }
    )
    return answer


def recipe_from_json(data: Mapping[str, Any]) -> Recipe:
    """The recipe inside what `recipe_json` wrote, or inside a plain `{strategy: setting}` mapping.

    Raises:
        InvalidInput: it is neither.
    """
    steps: Any = data
    if "format" in data:
        version = data.get("format_version")
        if data["format"] != FORMAT or version != FORMAT_VERSION:
            raise InvalidInput(
                f"format {data['format']!r:.60} version {version!r:.20} cannot be read; "
                f"give {FORMAT!r} version {FORMAT_VERSION}"
            )
        steps = data.get("recipe")
    if not isinstance(steps, Mapping) or not all(isinstance(x, str) for pair in steps.items() for x in pair):
        raise InvalidInput(
            f"recipe={steps!r:.80} is not allowed; give a mapping such as {{'attention_fusion': 'sdpa'}}"
        )
    return Recipe.from_dict(steps)


def decisions_in(data: Mapping[str, Any]) -> dict[str, Any]:
    """What methods decided when the recipe was measured, by setting; empty where nothing was or the form is plain."""
    found = data.get("decisions") if "format" in data else None
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def recipe_code(subject: Subject, recipe: Recipe, measurement: Measurement | Mapping[str, Any] | None) -> str:
    """A Python script that builds the registry model, applies the recipe and compares it with the untouched model."""
    workload = to_json(subject.workload)
    environment = _as_mapping(measurement).get("environment") if measurement is not None else None
    decisions = to_json(environment.get("decisions")) if isinstance(environment, Mapping) else None
    # A method that measures before it decides must decide what was measured.
    decided = f", decisions={ascii(decisions)}" if decisions else ""
    lines = [
        "# Rebuilds an optimized model and checks it against the untouched one.",
        *_figure_comments(subject, recipe, measurement),
        "import torch",
        "from hybrid_core import apply_recipe",
        "from hybrid_core.models.registry import find_entry",
        "from hybrid_core.records import Workload",
        "",
        f"MODEL, SIZE, SEED = {ascii(subject.model)}, {ascii(subject.size)}, {int(subject.seed)}",
        f"RECIPE = {ascii(recipe.to_dict())}",
        f"DEVICE = {'cpu' if subject.device == 'cpu' else 'cuda'!r}",
        f"workload = Workload.from_json({ascii(workload)})",
        f"torch.set_num_threads({max(1, int(subject.threads))})",
        # Empty for a model of the registry; else where the brought files lie and which content they must have.
        f"SOURCE = {ascii(subject.source)}",
        "entry = find_entry(MODEL, SOURCE)",
        "model = entry.build(SIZE, SEED).to(DEVICE)",
        "generator = torch.Generator().manual_seed(SEED)",
        "inputs = tuple(t.to(DEVICE) for t in entry.make_inputs(SIZE, workload, generator))",
        "call = lambda module, given: entry.call(module, workload, given)",
        f"optimized = apply_recipe(model, RECIPE, inputs, call=call, workload=workload{decided})",
        "with torch.no_grad(): expected, found = call(model, inputs), call(optimized, inputs)",
        "",
        *_check_lines(measurement),
    ]
    return "\n".join(lines) + "\n"


def _check_lines(measurement: Measurement | Mapping[str, Any] | None) -> list[str]:
    """Compare outputs; one statement per line, so that the script can be pasted into an interpreter."""
    measured = _as_mapping(measurement).get("max_abs_error") if measurement is not None else None
    lines = [
        "outputs = lambda answer: [answer] if torch.is_tensor(answer) else list(answer)",
        "pairs = [(a.float(), b.float()) for a, b in zip(outputs(expected), outputs(found), strict=True)]",
        "difference = max(float((a - b).abs().max()) for a, b in pairs)",
        "size = max(float(a.abs().max()) for a, b in pairs)",
        "print(f'largest difference from the untouched model: {difference:.3g} (largest output: {size:.3g})')",
    ]
    if isinstance(measured, int | float):
        lines.append(
            f"allowed = 4 * {float(measured)!r} + 1e-4 * size  # four times what the run measured, and rounding"
        )
    else:
        lines.append("allowed = 0.1 * size  # the run did not record an error to compare with")
    # Not `difference > allowed`: a NaN must fail too.
    return [
        *lines,
        "if not difference <= allowed: raise SystemExit(f'outputs differ by more than {allowed:.3g}; do not use it')",
        "",
        "print('optimized is ready:', RECIPE or 'the untouched model')",
    ]


def _figure_comments(
    subject: Subject, recipe: Recipe, measurement: Measurement | Mapping[str, Any] | None
) -> list[str]:
    where = f"{subject.model} {subject.size}, {subject.workload.label}, device {subject.device}"
    lines = [
        f"# recipe: {_one_line(recipe.key)}",
        f"# measured on: {_one_line(where)}, {int(subject.threads)} thread(s)",
    ]
    if measurement is None:
        return [*lines, "# figures: none were recorded"]
    facts = to_json(_as_mapping(measurement))
    environment = facts.get("environment")
    needed = environment.get("start_variables") if isinstance(environment, Mapping) else None
    if isinstance(needed, Mapping):
        values = " ".join(f"{name}={value}" for name, value in sorted(needed.items()))
        lines.append(f"# start Python with these in its environment: {_one_line(values)}")
    for name in FIGURES[:3]:
        if facts.get(name):
            figure = Estimate.from_json(facts[name])
            lines.append(f"# {name}: {figure.value:.3f} (95 % interval {figure.low:.3f} to {figure.high:.3f})")
    if "peak_bytes" in facts and "baseline_peak_bytes" in facts:
        lines.append(f"# peak bytes: {int(facts['peak_bytes'])} (untouched {int(facts['baseline_peak_bytes'])})")
    return lines


def _one_line(text: str) -> str:
    """Text for a comment: escapes line breaks and everything that is not ASCII."""
    return ascii(text)[1:-1]


def _as_mapping(measurement: Measurement | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(measurement, Measurement):
        return {name: getattr(measurement, name) for name in measurement.__dataclass_fields__}
    return measurement
