"""Whether a forked trial says what one in a fresh interpreter says: the same recipes measured in turn in both ways.

Memory, quality and the outcome must be the same; the time may differ by what two fresh processes differ by, so the
difference of the mean log ratios is held against its standard error over the repetitions. Run it on a quiet machine.

    python benchmarks/search/agreement.py convnet tiny forward --times 5
    python benchmarks/search/agreement.py convnet tiny forward --recipes kernel_fusion=fold quantization=int8_dynamic
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.search.fork_server import ForkServer  # noqa: E402
from benchmarks.search.measurer import limits_of  # noqa: E402
from benchmarks.truth.trials import Runner, subject_of  # noqa: E402
from hybrid_core.records import Recipe, Trial  # noqa: E402
from workers.engines.containment import measure_environment  # noqa: E402

RECIPES = ("baseline", "kernel_fusion=compile", "quantization=int8_dynamic", "quantization=bfloat16")
TIMED_S = 3.0


def main() -> None:
    """Measure and print a line for each recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subject", nargs=3, metavar="NAME", help="model, size and workload")
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--times", type=int, default=4, help="repetitions of each way; a new server for each")
    chosen = parser.parse_args()
    subject, limits = subject_of(*chosen.subject), limits_of(TIMED_S)["A"]
    found: dict[str, tuple[list[Trial], list[Trial]]] = {key: ([], []) for key in chosen.recipes}
    with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
        fresh = Runner(Path(folder))
        for turn in range(chosen.times):
            server = ForkServer(Path(folder), measure_environment(Path(folder), subject.threads, f"fork-server/{turn}"))
            forking = Runner(Path(folder), server.command)
            for key, (forked, started) in found.items():
                for runner, trials in ((forking, forked), (fresh, started)):
                    trials.append(runner.measure(subject, Recipe.from_key(key), limits).trial)
                    server.refuse_if_gone()
            server.stop()
    for key, (forked, started) in found.items():
        print(f"{key}: {compared(forked, started)}", flush=True)


def compared(forked: Sequence[Trial], started: Sequence[Trial]) -> str:
    """What differs, in one line."""
    outcomes = [sorted({str(trial.outcome) for trial in trials}) for trials in (forked, started)]
    measured = [[t.measurement for t in trials if t.measurement is not None] for trials in (forked, started)]
    if not all(measured):
        return f"forked {', '.join(outcomes[0])}; fresh {', '.join(outcomes[1])}"
    names = ("memory_efficiency", "accuracy_preservation")
    exact = [{round(getattr(m, name).value, 6) for m in both} for name in names for both in measured]
    same = exact[0] == exact[1] and exact[2] == exact[3]
    logs = [[math.log(m.speed_improvement.value) for m in one] for one in measured]
    difference = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    error = standard_error(*logs)
    ratios = [math.exp(statistics.fmean(one)) for one in logs]
    seconds = [statistics.median(t.seconds for t in trials) for trials in (forked, started)]
    verdict = "agree" if same and not abs(difference) > 2 * error else "DIFFER"
    return (
        f"{verdict}: speed {ratios[0]:.3f} forked, {ratios[1]:.3f} fresh, "
        f"{100 * difference:+.1f} ± {100 * error:.1f} %; "
        f"memory and quality {'the same' if same else 'DIFFER'}; {seconds[0]:.1f} s and {seconds[1]:.1f} s a trial"
    )


def standard_error(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the difference of two means (Welch); infinite where one of them has a single value."""
    if min(len(first), len(second)) < 2:
        return math.inf
    return math.sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))


if __name__ == "__main__":
    main()
