"""What can be measured: somebody's module with inputs like the example's, or a subject of the registry."""

from pathlib import Path

import pytest
import torch

from hybrid_core.errors import InvalidInput
from hybrid_core.evaluation import case_from_module, case_from_registry, evaluate, random_like
from hybrid_core.models.registry import get_entry
from hybrid_core.records import MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from tests.hybrid_core.measurement.trying import QUICK, WIDTH, Honest, try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


def test_a_case_from_a_module_never_touches_the_module():
    module = Honest().eval()
    weight = module.layers[0].weight.detach().clone()
    case = case_from_module(module, (torch.randn(4, WIDTH),), seed=1)

    def change(model):
        with torch.no_grad():
            model.layers[0].weight.zero_()

    assert try_candidate(change, case=case).outcome is Outcome.WRONG
    assert torch.equal(module.layers[0].weight, weight)
    assert case.workload.batch == 4


@pytest.mark.parametrize(
    "example",
    [
        torch.randn(200, 50) * 3 + 7,
        torch.randint(5, 90, (300, 20)),
        torch.rand(400, 5) < 0.2,
        torch.randn(100, 30, dtype=torch.complex64),
        torch.full((4,), 2.5),
        torch.zeros(0, 3),
    ],
    ids=["float", "int", "bool", "complex", "constant", "empty"],
)
def test_fresh_inputs_look_like_the_example(example):
    fresh = random_like(example, torch.Generator().manual_seed(0))
    assert (fresh.shape, fresh.dtype) == (example.shape, example.dtype)
    if example.dtype == torch.int64:
        assert (int(fresh.min()), int(fresh.max())) == (int(example.min()), int(example.max()))
    elif example.numel() and not example.is_complex():
        assert float(fresh.double().mean()) == pytest.approx(float(example.double().mean()), abs=0.15)
        assert float(fresh.double().std()) == pytest.approx(float(example.double().std()), abs=0.15)


def test_example_inputs_without_a_tensor_are_refused():
    with pytest.raises(InvalidInput, match="as a tuple"):
        case_from_module(Honest(), [torch.zeros(2, WIDTH)])


def registry_subject(**changes) -> Subject:
    workload = get_entry("sequential").workloads("tiny")[0]
    return Subject(**{"model": "sequential", "size": "tiny", "workload": workload, "threads": 1, "seed": 0, **changes})


def test_a_registry_model_is_measured_end_to_end():
    subject = registry_subject()
    request = MeasureRequest("t", "r", subject, Recipe(), Purpose.BASELINE, QUICK)
    trial = evaluate(case_from_registry(subject), request)
    assert trial.outcome is Outcome.OK, trial.reason
    parameters = 128 * 256 + 256 + 2 * 256 + 256 * 64 + 64
    assert trial.measurement.weight_bytes == trial.measurement.baseline_weight_bytes == 4 * parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nobody"}, "nobody"),
        ({"size": "enormous"}, "enormous"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not on this machine"),
        ({"workload": Workload("decode", "decode", 1)}, "cannot run 'decode, batch 1'"),
    ],
)
def test_a_subject_that_does_not_exist_is_refused(changes, words):
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        case_from_registry(registry_subject(**changes))


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("int8_dynamic", "no_such_setting")
    names = {"model": Honest(), "example_tensor": torch.randn(4, WIDTH)}
    exec(code, names)
    assert names["trial"].outcome is Outcome.INVALID_INPUT and "no_such_setting" in names["trial"].reason
