"""Whether a run of a size fits on a device: figures by hand, and silence where nobody knows."""

import psutil
import pytest

from hybrid_core.errors import InvalidInput
from workers import fitting
from workers.fitting import DeviceMemory, add_fits, fit_on, machine_bytes, refuse_what_does_not_fit
from workers.nvml import CardLost

CPU, GPU = {"id": "cpu"}, {"id": "cuda:0", "uuid": "GPU-1"}
GIB = 2**30


class FakeNvml:
    """One card of 80 GiB, 30 of them in use; any other is lost or unknown."""

    def cards(self):
        return [("GPU-1", "H100")]

    def read(self, uuid, question):
        assert question == "memory"
        if uuid == "GPU-lost":
            raise CardLost("fallen off the bus")
        return {"GPU-1": (30 * GIB, 80 * GIB), "GPU-mute": None}[uuid]


def facts(float32_bytes):
    return {"weights_bytes": {"float32": float32_bytes}}


def model(float32_bytes):
    return {"name": "m", "facts": {"full": facts(float32_bytes)}}


def test_a_device_has_what_the_system_tells_and_a_card_what_nvml_tells():
    memory = DeviceMemory(FakeNvml())
    assert (memory.total(GPU), memory.free(GPU)) == (80 * GIB, 50 * GIB)
    assert 0 < memory.free(CPU) <= memory.total(CPU) <= psutil.virtual_memory().total


@pytest.mark.parametrize("uuid", ["GPU-lost", "GPU-mute", "GPU-unknown"])
def test_a_card_that_does_not_tell_decides_nothing(uuid):
    memory, card = DeviceMemory(FakeNvml()), {"id": "cuda:0", "uuid": uuid}
    assert memory.total(card) is None and memory.free(card) is None
    refuse_what_does_not_fit(model(2**60), "full", card, memory)
    assert add_fits(model(2**60), [card], memory)["facts"]["full"]["fits"] == {}


def test_the_containers_limit_counts_where_it_is_smaller(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(fitting, "CGROUP_LIMIT", limit)
    whole = machine_bytes()
    assert whole == psutil.virtual_memory().total
    for text, expected in (("max\n", whole), (f"{GIB}\n", GIB), (f"{2**62}\n", whole)):
        limit.write_text(text)
        assert machine_bytes() == expected


def test_two_models_must_fit_and_exactly_fitting_is_fitting():
    assert fit_on(facts(4 * GIB), GPU, 8 * GIB)["fits"] is True
    tight = fit_on(facts(4 * GIB + 1), GPU, 8 * GIB)
    assert (tight["fits"], tight["needed_bytes"], tight["available_bytes"]) == (False, 8 * GIB + 2, 8 * GIB)
    assert tight["sentence"] == (
        "A run holds the untouched model and the candidate, 8.0 GiB of weights in float32; "
        "cuda:0 has 8.0 GiB, so it does not fit."
    )


def test_each_size_is_judged_on_each_device_and_other_facts_stay():
    told = add_fits({"name": "m", "facts": {"full": {**facts(30 * GIB), "trained": False}}}, [GPU], FakeMemory())
    assert told["facts"]["full"]["trained"] is False
    assert {device: fit["fits"] for device, fit in told["facts"]["full"]["fits"].items()} == {"cuda:0": True}


class FakeMemory(DeviceMemory):
    def __init__(self):
        super().__init__(FakeNvml())


def test_a_submission_is_judged_by_what_is_free_now():
    refuse_what_does_not_fit(model(25 * GIB), "full", GPU, FakeMemory())
    with pytest.raises(InvalidInput, match=r"2 copies of m full, .* need 60.0 GiB in float32 but 50.0 GiB are free on"):
        refuse_what_does_not_fit(model(30 * GIB), "full", GPU, FakeMemory())


@pytest.mark.parametrize("odd", [{}, {"weights_bytes": None}, {"weights_bytes": {"float32": "x"}}])
def test_a_size_of_unknown_weight_is_not_judged(odd):
    assert fit_on(odd, GPU, GIB) is None
    refuse_what_does_not_fit({"name": "m", "facts": {"full": odd}}, "full", GPU, FakeMemory())
