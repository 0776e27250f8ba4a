"""The command line: one object with --json, one sentence for what is wrong, exit codes, and Ctrl-C that cancels."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_core.errors import InvalidInput
from workers.__main__ import main, parse_options, parse_weights, run_config
from workers.paths import PROJECT_ROOT

FAKES = Path(__file__).parent / "fakes"
TOY = ["optimize", "--model", "toy", "--strategies", "quantization"]


def test_json_is_exactly_one_object_with_run_trials_baseline_and_winner(hub, capsys):
    assert main([*TOY, "--method", "rank", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.out.count("\n") == 1 and set(found) == {"run", "trials", "baseline", "winner"}
    ratio = {"value": 1.5, "low": 1.4, "high": 1.6}
    assert found["winner"]["recipe"] == {"quantization": "two"}
    for name in ("speed_improvement", "memory_efficiency", "accuracy_preservation"):
        assert found["winner"][name] == ratio and found["trials"][-1][name] == ratio
    assert found["winner"]["fitness"] == 1.0 and found["winner"]["fitness_interval"]["low"] == 0.9
    assert found["baseline"]["fitness"] == 1.0 and found["baseline"]["latency_ms"] == 1.5
    assert len(found["trials"]) == 6 and found["run"]["method"] == "rank" and found["run"]["state"] == "finished"
    assert "measurements" in printed.err


def test_without_json_a_table_and_the_winner_are_printed_and_status_knows_the_run(hub, capsys):
    assert main(TOY) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["recipe", "purpose", "outcome", "speed", "memory", "accuracy", "fitness"]
    assert "winner: quantization=two" in printed and "1.500 [1.400, 1.600]" in printed
    run_id = hub.client.query("runs")[0]["run_id"]
    assert main(["status"]) == 0
    assert run_id in capsys.readouterr().out
    assert main(["status", run_id]) == 0
    assert f"Run {run_id} is finished: two is the best" in capsys.readouterr().out
    assert main(["cancel", run_id]) == 0
    assert capsys.readouterr().out == f"Run {run_id} was over already: it is finished.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: command"),
        (["optimize"], "the following arguments are required: --model"),
        (["fly"], "invalid choice: 'fly'"),
        (["optimize", "--model", ""], "model is empty"),
        ([*TOY, "--budget", "0"], "budget_s=0.0 is not allowed"),
        ([*TOY, "--budget", "nan"], "budget_s=nan is not allowed"),
        ([*TOY, "--budget", "soon"], "invalid float value: 'soon'"),
        ([*TOY, "--candidates", "0"], "num_candidates=0 is not allowed"),
        ([*TOY, "--method", "dice"], "selection_strategy 'dice' is unknown"),
        ([*TOY, "--weights", "speed=0,memory=0,accuracy=0"], "are all zero"),
        ([*TOY, "--weights", "speed=-1"], "objective_weights['speed']=-1.0 is not allowed"),
        ([*TOY, "--weights", "speed=nan"], "objective_weights['speed']=nan is not allowed"),
        ([*TOY, "--weights", "speed"], "--weights 'speed' cannot be read"),
        ([*TOY, "--weights", "beauty=1"], "objective_weights 'beauty' is unknown"),
        ([*TOY, "--min-accuracy", "2"], "min_accuracy_preservation=2.0 is not allowed"),
        (["optimize", "--model", "toy", "--strategies", "magic"], "optimization_strategies 'magic' is unknown"),
        (["optimize", "--model", "toy", "--strategies", ","], "optimization_strategies=[] is not allowed"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_starts_no_hub(paths, capsys, arguments, sentence):
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    printed = capsys.readouterr()
    assert code == 2 and sentence in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not paths.socket.exists()


def test_an_unknown_model_is_refused_by_the_hub_with_the_known_ones(hub, capsys):
    assert main(["optimize", "--model", "gpt9"]) == 2
    assert capsys.readouterr().err == "model 'gpt9' is unknown; choose one of toy\n"
    assert main(["status", "nosuchrun"]) == 2
    assert main(["cancel", "nosuchrun"]) == 2
    assert "run 'nosuchrun' does not exist" in capsys.readouterr().err


def test_status_and_cancel_start_no_hub(paths, capsys):
    assert main(["status"]) == 3 and main(["cancel", "x"]) == 3
    assert capsys.readouterr().err.startswith(f"no hub serves {paths.root}; start it with")
    assert main(["stop"]) == 0
    assert not paths.socket.exists()


def test_interrupting_the_command_cancels_its_run(hub, wait_for):
    hub.hold()
    environment = {**os.environ, "HYBRID_DATA_DIR": str(hub.paths.root)}
    command = subprocess.Popen(
        [sys.executable, "-m", "workers", *TOY], cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run_id = wait_for(lambda: (runs := hub.client.query("runs")) and runs[0]["run_id"])
    hub.wait_measuring(run_id)
    command.send_signal(signal.SIGINT)
    output, complaints = command.communicate(timeout=30)
    assert command.returncode == 130
    assert "is being cancelled" in complaints and "Traceback" not in complaints
    assert f"Run {run_id} is cancelled: cancelled by request" in output


def test_the_command_line_process_never_imports_torch_or_duckdb():
    code = (
        "import sys, workers.__main__; print([m for m in ('torch', 'duckdb', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_each_option_reaches_the_configuration_key_it_stands_for():
    from workers.__main__ import build_parser

    given = "--min-accuracy 0.9 --min-speed 0.5 --candidates 7 --iterations 3 --method roulette --weights speed=1"
    config = run_config(build_parser().parse_args([*TOY, *given.split(), "--budget", "60", "--seed", "4"]))
    assert config["options"] == {
        "min_accuracy_preservation": 0.9,
        "min_speed_improvement": 0.5,
        "num_candidates": 7,
        "max_iterations": 3,
        "optimization_strategies": ["quantization"],
        "objective_weights": {"speed": 1.0},
        "enable_rl_optimization": False,
        "selection_strategy": "roulette",
    }
    assert (config["budget_s"], config["seed"], config["model"]) == (60.0, 4, "toy")
    rl = run_config(build_parser().parse_args([*TOY, "--method", "rl"]))
    assert rl["options"]["enable_rl_optimization"] is True
    assert parse_weights(" speed = 0.5 , memory=2") == {"speed": 0.5, "memory": 2.0}


def test_further_options_are_json_and_anything_else_is_refused():
    assert parse_options('{"enable_orz": false}') == {"enable_orz": False}
    assert parse_options(None) == {}
    for text in ("[1]", "enable_orz", '{"a":'):
        with pytest.raises(InvalidInput, match="one JSON object"):
            parse_options(text)


def test_settings_of_several_strategies_are_read_from_one_option():
    from workers.__main__ import parse_settings

    assert parse_settings("quantization=int8_dynamic, bfloat16;kernel_fusion=fold") == {
        "quantization": ["int8_dynamic", "bfloat16"],
        "kernel_fusion": ["fold"],
    }


@pytest.mark.parametrize("text", ["quantization", "a=b=c", "a=b;a=c"])
def test_settings_that_cannot_be_read_are_refused_with_an_example(text):
    from workers.__main__ import parse_settings

    with pytest.raises(InvalidInput, match="cannot be read; write for example quantization="):
        parse_settings(text)
