"""The real hub with programs of our own: `python fake_hub.py`, data folder from HYBRID_DATA_DIR as ever."""

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from workers.hub import main

FAKES = Path(__file__).parent


def programs():
    from workers.supervisor import Programs

    def fake(name):
        return (sys.executable, str(FAKES / f"{name}.py"))

    fakes = Programs(
        run=fake("fake_run"),
        measure=(*fake("fake_measure"), os.environ["HYBRID_DATA_DIR"]),
        catalog=fake("fake_catalog"),
        inspect=(*fake("fake_inspect"), os.environ["HYBRID_DATA_DIR"]),
        export=(*fake("fake_export"), os.environ["HYBRID_DATA_DIR"]),
    )
    is_real = "REAL_INSPECTION" in os.environ
    return replace(fakes, inspect=Programs().inspect, measure=Programs().measure) if is_real else fakes


if __name__ == "__main__":
    sys.exit(main(programs))
