"""Every cheat is refused by name, by the real procedure, in the phase that is to find it."""

import pytest

from hybrid_core.records import Outcome
from tests.hybrid_core.measurement.cheats import CHEATS
from tests.hybrid_core.measurement.trying import try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_by_name(cheat):
    trial = try_candidate(cheat, exact=cheat.exact, case=cheat.case())
    assert trial.outcome is Outcome.WRONG and cheat.words in trial.reason, trial.reason
    assert trial.measurement is None
    assert trial.stage in (("timing", "warmup") if cheat.stage == "timing" else (trial.stage,))
