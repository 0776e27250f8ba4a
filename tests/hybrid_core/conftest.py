"""What tests of the real `evaluate` share."""

import gc

import pytest


@pytest.fixture(scope="module")
def quick_census():
    """Leave all that exists before these tests out of the search for live tensors, which then takes no time.

    The procedure does so too while it measures, but lets go of it after each trial; with pytest, torch and the other
    tests in memory each trial would spend a third of a second on objects that are none of its business.
    """
    with pytest.MonkeyPatch.context() as patch:
        gc.collect()
        gc.freeze()
        unfreeze = gc.unfreeze
        patch.setattr(gc, "unfreeze", lambda: None)
        yield
    unfreeze()
