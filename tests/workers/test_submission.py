"""What is refused before anything is queued, and that each refusal names the field, the value and what is allowed."""

import copy
import importlib.util
from pathlib import Path

import pytest

from hybrid_core.errors import InvalidInput
from workers.submission import check_submission

spec = importlib.util.spec_from_file_location("fake_catalog", Path(__file__).parent / "fakes" / "fake_catalog.py")
fake_catalog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_catalog)
CATALOG = fake_catalog.CATALOG


def test_a_plain_request_gets_its_defaults_resolved():
    run, subject, family = check_submission({"model": "toy"}, CATALOG)
    assert (subject.size, subject.workload.name, subject.device, subject.threads) == ("tiny", "forward", "cpu", 1)
    assert family == "toys" and run.options.num_candidates == 5


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "config=None is not allowed"),
        ([], "config=[] is not allowed"),
        ({}, "model is missing"),
        ({"model": "tot"}, "model 'tot' is unknown; choose one of toy"),
        ({"model": ["toy"]}, "model=['toy'] is not allowed"),
        ({"model": "toy", "size": "huge"}, "size 'huge' of model toy is unknown; choose one of tiny"),
        ({"model": "toy", "workload": "decode"}, "workload 'decode' is unknown; choose one of forward"),
        ({"model": "toy", "device": "cuda:7"}, "device 'cuda:7' is unknown; choose one of cpu"),
        ({"model": "toy", "threads": 3}, "threads=3 is not allowed; cpu has 2 cores"),
        ({"model": "toy", "threads": -1}, "threads=-1 is not allowed"),
        ({"model": "toy", "budget_s": 0}, "budget_s=0 is not allowed"),
        ({"model": "toy", "budget_s": float("nan")}, "budget_s=nan is not allowed"),
        ({"model": "toy", "bogus": 1}, "run key 'bogus' is unknown"),
        ({"model": "toy", "options": {"num_candidates": 0}}, "num_candidates=0 is not allowed"),
        ({"model": "toy", "options": {"objective_weights": {"speed": 0.0}}}, "are all zero"),
        ({"model": "toy", "options": {"optimization_strategies": []}}, "optimization_strategies=[] is not allowed"),
        ({"model": "toy", "options": {"strategy_weights": {}}}, "'strategy_weights' was declared"),
    ],
)
def test_each_impossible_request_is_one_sentence(config, sentence):
    with pytest.raises(InvalidInput) as refused:
        check_submission(config, CATALOG)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_strategies_without_any_available_setting_are_refused_with_the_machines_reason():
    config = {"model": "toy", "options": {"optimization_strategies": ["kernel_fusion"]}}
    with pytest.raises(InvalidInput, match=r"no setting of kernel_fusion is available on cpu \(.*no C\+\+ compiler"):
        check_submission(config, CATALOG)


def quantization_only(*settings):
    options = {"optimization_strategies": ["quantization"], "strategy_settings": {"quantization": list(settings)}}
    return {"model": "toy", "options": options}


def test_named_settings_must_exist_and_one_must_be_available():
    assert check_submission(quantization_only("two"), CATALOG).config.options.strategy_settings == {
        "quantization": ("two",)
    }
    with pytest.raises(InvalidInput, match="setting of quantization 'four' is unknown; choose one of one, two, three"):
        check_submission(quantization_only("two", "four"), CATALOG)


def test_a_setting_on_request_counts_only_when_it_is_named():
    catalog = copy.deepcopy(CATALOG)
    for setting in catalog["strategies"][0]["settings"]:
        setting["on_request"] = "It hardly ever pays."
    with pytest.raises(InvalidInput, match="quantization=one: It hardly ever pays"):
        check_submission(quantization_only(), catalog)
    check_submission(quantization_only("one"), catalog)


def test_a_setting_that_works_on_another_device_only_does_not_count():
    catalog = copy.deepcopy(CATALOG)
    catalog["devices"].append({"id": "cuda:0", "title": "GPU", "threads": 1, "max_threads": 2})
    for setting in catalog["strategies"][0]["settings"]:
        setting["unavailable_on"] = {"cpu": None, "cuda:0": "runs on the CPU only"}
    assert check_submission({"model": "toy"}, catalog).subject.device == "cpu"
    with pytest.raises(InvalidInput, match="no setting of .* is available on cuda:0 .*runs on the CPU only"):
        check_submission({"model": "toy", "device": "cuda:0"}, catalog)
