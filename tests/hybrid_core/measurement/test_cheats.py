"""Every cheat is refused by name, by the real procedure, in the phase that is to find it."""

import time

import pytest
import torch

from hybrid_core.records import Outcome
from tests.hybrid_core.measurement import (
    cheats_left_out,
    cheats_remembered,
    cheats_tampering,
    cheats_unfinished,
    cheats_watched,
)
from tests.hybrid_core.measurement.cheats import CHEATS, GPU_CHEATS
from tests.hybrid_core.measurement.trying import try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_by_name(cheat):
    trial = try_candidate(cheat, exact=cheat.exact, case=cheat.case())
    assert trial.outcome is Outcome.WRONG and cheat.words in trial.reason, trial.reason
    assert trial.measurement is None
    assert trial.stage == (cheat.stage or trial.stage)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("cheat", GPU_CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_on_a_gpu_is_refused_by_name(cheat):
    trial = try_candidate(cheat, case=cheat.case())
    assert trial.outcome is Outcome.WRONG and cheat.words in trial.reason, trial.reason


LOOSE_CHEATS = [
    cheats_remembered.Constant,
    cheats_remembered.Zeros,
    cheats_remembered.Identity,
    cheats_remembered.CachedByIdentity,
    cheats_remembered.CachedByFirstValue,
    cheats_unfinished.FilledLater,
    cheats_left_out.SkipsTheLastItem,
    cheats_watched.RightOnTheLastOfASample,
    cheats_watched.NanOnlyWhileTimed,
]


@pytest.mark.parametrize("cheat", LOOSE_CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_also_where_precision_may_be_lost(cheat):
    assert try_candidate(cheat, exact=False).outcome is Outcome.WRONG


def test_the_process_is_left_as_it_was():
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state(), torch.is_grad_enabled())
    clocks = (time.perf_counter_ns, time.perf_counter, time.monotonic, torch.cuda.synchronize, torch.linalg.vector_norm)
    changing = (
        cheats_tampering.TakesMoreThreads,
        cheats_tampering.ChangesTheDefaultDtype,
        cheats_tampering.LeavesGradModeOff,
        cheats_tampering.LeavesAutocastOn,
        cheats_tampering.ReseedsEverybody,
        cheats_tampering.PatchesTheTimer,
        cheats_tampering.PatchesAllTimersWhileTimed,
        cheats_tampering.PatchesTheWaiting,
        cheats_tampering.PatchesTheComparison,
    )
    for cheat in changing:
        assert try_candidate(cheat).outcome is Outcome.WRONG
    assert torch.get_num_threads() == before[0] and torch.get_default_dtype() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2]) and torch.is_grad_enabled() == before[3]
    assert not torch.is_autocast_enabled("cpu")
    after = (time.perf_counter_ns, time.perf_counter, time.monotonic, torch.cuda.synchronize, torch.linalg.vector_norm)
    assert after == clocks


def test_there_are_cheats_of_every_kind_and_each_says_what_it_does():
    assert len({cheat.__name__ for cheat in CHEATS}) == len(CHEATS) >= 60
    assert all(cheat.__doc__ and cheat.words for cheat in CHEATS)
