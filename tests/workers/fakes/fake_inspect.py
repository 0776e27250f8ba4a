"""An inspection without torch, steered by the last part of the path; `hold` in the data folder makes "slow" wait."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

request = json.load(sys.stdin)
root, what = Path(sys.argv[1]), Path(request["path"]).name
WORKLOAD = {"name": "forward", "kind": "forward", "batch": 1, "length": 8, "new_tokens": 0}
with (root / "inspected").open("a") as ledger:
    ledger.write(f"{request['name']}\n")
(root / "seen.json").write_text(json.dumps({"request": request, "environment": dict(os.environ), "pid": os.getpid()}))


def model(**changes):
    registration = {key: request[key] for key in ("kind", "name", "path")}
    facts = {
        "parameters": 1000,
        "weights_bytes": {"float32": 4000, "bfloat16": 2000, "int8": 1000, "int4": 500},
        "trained": True,
        "quality": None,
        "limits": ["none"],
    }
    if what == "giant":
        facts["weights_bytes"] = {"float32": 2**60}
    return {
        "name": request["name"],
        "family": "brought-toys",
        "title": f"Brought {request['name']}",
        "description": "A toy.",
        "sizes": ["full"],
        "workloads": {"full": [{**WORKLOAD, "label": "a label of its own"}]},
        "facts": {"full": facts},
        "source": json.dumps(registration),
        "brought": True,
        "extra": "not asked for",
        **changes,
    }


def say(value):
    print(value if isinstance(value, str) else json.dumps(value))


def leave_grandchildren():
    for new_session in (False, True):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=new_session)
    time.sleep(300)


def flood():
    while True:
        sys.stdout.write("x" * 100_000)


def wait():
    while (root / "hold").exists():
        time.sleep(0.02)
    say({"ok": True, "model": model()})


ANSWERS = {
    "refuse": lambda: say({"ok": False, "reason": "config.json has\nthe key 'auto_map', which is not allowed"}),
    "mute": lambda: say({"ok": False}),
    "garbage": lambda: say("hello"),
    "list": lambda: say([1]),
    "nan": lambda: say('{"ok": true, "model": {"name": NaN}}'),
    "deep": lambda: say({"ok": True, "model": model(facts={"full": json.loads("[" * 50 + "]" * 50)})}),
    "deeper": lambda: say("[" * 100_000),
    "deepfacts": lambda: say({"ok": True, "model": model(facts={"full": {"a": json.loads("[" * 50 + "]" * 50)}})}),
    "stranger": lambda: say({"ok": True, "model": model(name="llama")}),
    "unsized": lambda: say({"ok": True, "model": model(sizes=[])}),
    "unworkable": lambda: say({"ok": True, "model": model(workloads={"full": [{**WORKLOAD, "kind": "rm -rf"}]})}),
    "negative": lambda: say({"ok": True, "model": model(workloads={"full": [{**WORKLOAD, "batch": -1}]})}),
    "unregistered": lambda: say({"ok": True, "model": model(source="not json")}),
    "disguised": lambda: say({"ok": True, "model": model(source=json.dumps({"kind": "exported"}))}),
    "surrogate": lambda: say({"ok": True, "model": model(title="broken \ud800 title")}),
    "fails": lambda: sys.exit("it broke"),
    "segfault": lambda: os.kill(os.getpid(), 11),
    "hang": lambda: time.sleep(300),
    "leaves": leave_grandchildren,
    "flood": flood,
    "slow": wait,
}
ANSWERS.get(what, lambda: say({"ok": True, "model": model()}))()
