"""Which blocks count and what a race says about its conditions, with readings made by hand and by a small scheduler."""

import json
from statistics import NormalDist

import numpy as np
import pytest

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement import blocks, conditions
from hybrid_core.measurement.blocks import BlockLog
from hybrid_core.measurement.neighbours import Census, Ticks
from hybrid_core.measurement.statistics import block_means, log_ratios
from hybrid_core.records import Estimate, MeasureLimits, Outcome

LIMITS = MeasureLimits()


def reading(waited=0.0, own=1.0, wall_ms=10.0, threads=1, **more):
    waited_ms = None if waited is None else waited * wall_ms
    return {"wall_ms": wall_ms, "own_ms": own * wall_ms * threads, "waited_ms": waited_ms, **more}


def log_of(readings, threads=1, elapsed_s=0.0):
    """A log that was told all readings as if each were the next block's."""
    log = BlockLog(LIMITS, threads)
    for one in readings:
        log.takes_again(one, elapsed_s)
    return log


def facts_of(log, before=None, after=None, noise=()):
    return conditions.summarize(log, before, after, frozenset({1}), noise)


def test_a_wait_inside_one_sample_moves_the_blocks_ratio_by_at_most_twice_its_share_of_the_block():
    """The derivation of the limit: whichever of the four samples is hit."""
    share, sample = blocks.WAITED_LIMIT, 10.0
    for place in range(4):
        times = np.full(4, sample)
        times[place] += share * 4 * sample
        moved = block_means(log_ratios([tuple(times[:2]), tuple(times[2:])]))[0]
        assert abs(moved) <= 2 * share == blocks.BLOCK_AGREEMENT


def test_a_tenth_of_disturbed_blocks_moves_a_median_by_less_than_its_interval():
    """Closed form: all disturbed blocks on one side turn the median into the 0.5 / 0.9 quantile of the others."""
    moved = NormalDist().inv_cdf(0.5 / (1 - conditions.DISTURBED_LIMIT))
    half_width_at_300_blocks = 1.96 * 1.2533 / 300**0.5
    assert moved < 0.14 < half_width_at_300_blocks


def test_a_block_that_waited_is_taken_again_and_a_quiet_one_is_kept():
    log = log_of([reading(), reading(waited=0.02), reading(waited=0.3), reading()])
    assert (len(log.kept), log.again) == (3, [(blocks.WAITING,)])
    assert log.disturbed() == []


def test_a_model_that_sleeps_or_works_elsewhere_is_never_called_disturbed():
    generator = np.random.default_rng(3)
    steady = [reading(own=0.2) for _ in range(40)]
    restless = [reading(own=float(share)) for share in generator.uniform(0.05, 1.0, 40)]
    for readings in (steady, restless):
        log = log_of(readings)
        assert len(log.kept) == 40 and log.disturbed() == []
        assert not facts_of(log)["flagged"]


def test_threads_that_wake_each_other_wait_by_nature_and_only_more_than_that_counts():
    generator = np.random.default_rng(4)
    quiet = [reading(waited=float(share), threads=2) for share in generator.uniform(0.08, 0.10, 30)]
    log = log_of(quiet, threads=2)
    assert len(log.kept) == 30 and log.disturbed() == []
    assert log.takes_again(reading(waited=0.2, threads=2), 0.0)


def test_blocks_before_the_quiet_ones_are_judged_by_the_whole_race():
    busy, quiet = [reading(waited=0.5, threads=2)] * 3, [reading(waited=0.01, threads=2)] * 20
    log = log_of([*busy, *quiet], threads=2)
    assert len(log.kept) == 23, "nothing was known yet to compare the first ones with"
    assert len(log.disturbed()) == 3


def test_retakes_end_at_the_cap_and_at_half_of_the_time():
    log = log_of([reading(waited=0.5)] * 50)
    assert (len(log.again), len(log.kept)) == (blocks.MAX_RETAKES, 50 - blocks.MAX_RETAKES)
    late = log_of([reading(waited=0.5)] * 50, elapsed_s=LIMITS.max_timed_s * blocks.RETAKE_TIME_SHARE)
    assert (len(late.again), len(late.kept)) == (0, 50)
    assert len(late.disturbed()) == 50


def test_less_processor_than_usual_counts_where_the_hypervisor_took_time_and_not_elsewhere():
    usual = [reading() for _ in range(10)]
    assert log_of([*usual, reading(own=0.6, stolen_ms=10.0)]).again == [(blocks.LESS,)]
    assert log_of([*usual, reading(own=0.6, stolen_ms=0.0)]).again == []


def test_where_the_kernel_does_not_count_waiting_the_share_of_the_processor_is_compared():
    usual = [reading(waited=None) for _ in range(10)]
    log = log_of([*usual, reading(waited=None, own=0.5)])
    assert log.again == [(blocks.LESS,)]
    assert facts_of(log)["waited_share"] is None


def test_a_block_during_which_the_machine_slept_is_taken_again():
    assert log_of([reading(suspended_ms=3_600_000.0)]).again == [(blocks.SUSPENDED,)]
    assert log_of([reading(suspended_ms=80.0)]).again == []


def test_another_process_that_computes_on_the_gpu_disturbs_and_an_idle_one_does_not():
    assert log_of([{"gpu_used_by": ["pid 7 (40 %)"]}]).again == [(blocks.COMPUTING,)]
    assert log_of([{"gpu_used_by": []}, {"gpu_used_by": None}]).again == []


def test_throttling_shares_the_cap_and_keeps_its_own_sentences():
    hot = {"throttled_by": ["hardware thermal slowdown"], **reading()}
    log = log_of([hot] * 15 + [reading(waited=0.5)] * 15)
    assert len(log.again) == blocks.MAX_RETAKES
    warnings = conditions.condition_warnings(log, facts_of(log))
    assert warnings[0] == "15 timed blocks were taken again because the device was throttled"
    assert warnings[1].startswith("the machine was not quiet while timed: 30 of 30 timed blocks were disturbed")


def test_a_quiet_race_has_its_figures_and_no_warning():
    log = log_of([reading(mhz=3000.0), reading(mhz=2800.0), reading()])
    facts = facts_of(log)
    assert (facts["blocks"], facts["retaken"], facts["disturbed_blocks"]) == (3, 0, 0)
    assert (facts["own_share"], facts["waited_share"]) == (1.0, 0.0)
    assert (facts["mhz_low"], facts["mhz_high"]) == (2800.0, 3000.0)
    assert (facts["flagged"], facts["why"]) == (False, [])
    assert conditions.condition_warnings(log, facts) == []
    json.dumps(facts, allow_nan=False)


def test_what_the_system_does_not_say_is_none_and_flags_nothing():
    facts = facts_of(log_of([{}, {}]))
    for name in ("own_share", "waited_share", "stolen_share", "foreign_share", "others", "mhz_low", "mhz_high"):
        assert facts[name] is None
    assert not facts["flagged"]


def test_neighbours_are_named_with_their_share_of_a_core():
    before = Census(0, {(1, "a"): 0.0}, {1: "python"}, Ticks(0.0, 0.0, 0.0))
    used = {(1, "a"): 900.0, (9, "b"): 950.0, (8, "c"): 10.0}
    after = Census(10**9, used, {1: "python", 9: "cc1plus", 8: "sshd"}, Ticks(2000.0, 1860.0, 60.0))
    facts = facts_of(log_of([reading()] * 6), before, after)
    assert facts["others"] == [{"pid": 9, "name": "cc1plus", "share": 0.95}]
    assert (facts["foreign_share"], facts["stolen_share"]) == (0.48, 0.03)
    (sentence,) = conditions.condition_warnings(log_of([]), facts)
    assert "other processes used 48% of the processors (of one core: cc1plus (pid 9) 95%)" in sentence
    assert "the hypervisor took away 3% of the processors' time" in sentence


def test_spread_and_drift_of_the_times_flag_a_race_too():
    facts = facts_of(log_of([reading()] * 6), noise=["single times spread by 20%"])
    assert facts["flagged"] and facts["why"] == ["single times spread by 20%"]
    assert conditions.is_flagged({"conditions": facts}) and not conditions.is_flagged({})


def test_one_disturbed_block_is_chance_and_a_few_of_many_are_outvoted():
    assert not facts_of(log_of([reading(waited=0.5)] + [reading()] * 5))["flagged"]
    assert not facts_of(log_of([reading(waited=0.5)] * 9 + [reading()] * 81))["flagged"]
    assert facts_of(log_of([reading(waited=0.5)] * 10 + [reading()] * 80))["flagged"]


def races(count, busy_share, seed):
    """Races of 6 to 60 blocks on a core that a busy process shares for part of the time, by turns of 3 ms.

    A quiet core interrupts one block in fifty for up to a twentieth of it.
    """
    generator = np.random.default_rng(seed)
    for _ in range(count):
        blocks_wanted, wall_ms = int(generator.integers(6, 61)), float(generator.uniform(4, 200))
        begin = generator.uniform(0, 1 - busy_share) if busy_share < 1 else 0.0
        log, taken = BlockLog(LIMITS, 1), 0
        while len(log.kept) < blocks_wanted:
            is_busy = begin <= min(taken / blocks_wanted, 1.0) < begin + busy_share or busy_share == 1.0
            turns = wall_ms / 3.0
            lost = float(generator.normal(0.5, 0.3 / np.sqrt(turns))) if is_busy else 0.0
            hiccup = float(generator.uniform(0, 0.05)) if generator.random() < 0.02 else 0.0
            log.takes_again(reading(waited=min(max(lost, hiccup), 0.95), wall_ms=wall_ms), elapsed_s=0.0)
            taken += 1
        yield facts_of(log)


@pytest.mark.parametrize("busy_share", [1.0, 0.5, 0.3])
def test_a_core_shared_for_part_of_a_race_is_flagged_at_least_nineteen_times_in_twenty(busy_share):
    flagged = [facts["flagged"] for facts in races(150, busy_share, seed=11)]
    assert np.mean(flagged) >= 0.95


def test_a_quiet_race_with_the_odd_interruption_is_flagged_at_most_once_in_a_hundred():
    assert np.mean([facts["flagged"] for facts in races(300, 0.0, seed=12)]) <= 0.01


DISTURBED = {"blocks": 30, "retaken": 20, "disturbed_blocks": 25, "reasons": [blocks.WAITING]}
UNDECIDED = Estimate(1.1, 0.8, 1.5)


def test_a_race_that_says_nothing_is_unstable_with_its_figures():
    reason = conditions.unstable_reason(DISTURBED, UNDECIDED, 0.31, LIMITS)
    assert reason.startswith("45 of 50 timed blocks (90%) were disturbed (waiting for a processor")
    assert "only known to ±31% (asked for: 2.0%)" in reason and "close other programs" in reason


@pytest.mark.parametrize(
    ("change", "ratio", "width"),
    [
        ({"retaken": 5, "disturbed_blocks": 5}, UNDECIDED, 0.31),
        ({}, Estimate(2.0, 1.5, 2.6), 0.31),
        ({}, Estimate(0.6, 0.4, 0.8), 0.31),
        ({}, UNDECIDED, 0.09),
        ({"blocks": 6, "disturbed_blocks": 6}, UNDECIDED, 0.31),
    ],
    ids=["mostly quiet", "surely faster", "surely slower", "narrow enough", "few blocks"],
)
def test_a_race_that_still_says_something_is_kept(change, ratio, width):
    assert conditions.unstable_reason(DISTURBED | change, ratio, width, LIMITS) == ""


def test_an_unstable_race_ends_the_trial_in_its_timed_phase():
    generator = np.random.default_rng(5)
    wild = [(float(a), float(b)) for a, b in np.exp(generator.normal(0, 1.5, (60, 2)))]
    with pytest.raises(MeasurementFailed) as caught:
        conditions.refuse_unstable(DISTURBED, wild, LIMITS, seed=0)
    assert (caught.value.outcome, caught.value.stage) == (Outcome.UNSTABLE, "timing")
    conditions.refuse_unstable(DISTURBED, [(1.0, 1.0)] * 60, LIMITS, seed=0)
