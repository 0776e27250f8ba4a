"""No request, however wrong, gets more than a sentence or does harm; and the same few sentences reach the client."""

import contextlib
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_core.errors import HubUnavailable, InvalidInput
from workers.client import Client
from workers.protocol import MAX_REQUEST_BYTES, encode_frame, read_answer
from workers.server import SocketServer


@pytest.fixture
def server(tmp_path):
    def answer(request):
        if request.get("op") == "ping":
            return "pong", None
        if request.get("op") == "wrong":
            raise InvalidInput("field=7 is not allowed; use 1")
        return {"x": 1 / 0}, None

    server = SocketServer(tmp_path / "hub.sock", answer)
    server.start()
    yield tmp_path / "hub.sock"
    server.close()


def talk(path, data):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(data)
        return read_answer(connection)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            struct.pack(">I", MAX_REQUEST_BYTES + 1),
            "a message of 1,048,577 bytes is not allowed",
        ),
        (struct.pack(">I", 5) + b"hello", "the message is not JSON"),
        (struct.pack(">I", 2) + b"\xff\xfe", "the message is not JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "bytes is not allowed"),
        (encode_frame([1, 2]), "a request is a JSON object with an op, not list"),
        (encode_frame({"op": "wrong"}), "field=7 is not allowed; use 1"),
    ],
)
def test_a_broken_request_is_answered_with_a_sentence_and_the_server_goes_on(server, data, sentence):
    with pytest.raises(InvalidInput) as refused:
        talk(server, data)
    assert sentence in str(refused.value)
    assert talk(server, encode_frame({"op": "ping"})) == ("pong", None)


def test_an_error_of_our_own_is_a_sentence_without_a_trace(server):
    with pytest.raises(HubUnavailable, match=r"^the hub could not answer 'x' \(ZeroDivisionError\); see its log$"):
        talk(server, encode_frame({"op": "x"}))


def test_a_client_that_leaves_in_the_middle_of_a_request_does_no_harm(server):
    for cut in (1, 3, 5, 9):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(server))
            connection.sendall(encode_frame({"op": "ping"})[:cut])
    assert talk(server, encode_frame({"op": "ping"})) == ("pong", None)


def test_connections_above_the_bound_are_refused_politely_and_room_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("workers.server.MAX_CONNECTIONS", 2)
    inside, go_on = threading.Semaphore(0), threading.Event()

    def answer(request):
        inside.release()
        go_on.wait(20)
        return "pong", None

    path = tmp_path / "hub.sock"
    server = SocketServer(path, answer)
    server.start()
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(talk, path, encode_frame({"op": "ping"})) for _ in range(2)]
        for _ in busy:
            assert inside.acquire(timeout=20)
        with pytest.raises(HubUnavailable, match="the hub has 2 connections; try again"):
            talk(path, b"")
        go_on.set()
        assert [b.result(20) for b in busy] == [("pong", None)] * 2
    server.close()
    assert not path.exists()


def test_only_this_user_can_reach_the_socket(server):
    assert server.stat().st_mode & 0o777 == 0o600


HOSTILE = ["'; drop table runs; --", "../../etc/passwd", "\x00", "x" * 500, "💥", "", 7, None, ["a"], {"a": 1}, True]


def test_hostile_values_in_every_place_change_nothing(hub):
    """One hub, some hundred requests: each is refused with one line, and the tables are as before."""
    raw = Client(hub.paths)
    before = hub.client.query("runs")
    places = [
        lambda v: {"op": v},
        lambda v: {"op": "submit", "config": v},
        lambda v: {"op": "submit", "config": {"model": v}},
        lambda v: {"op": "submit", "config": {"model": "toy", "options": v or 7}},
        lambda v: {"op": "submit", "config": {"model": "toy", "seed": str(v)}},
        lambda v: {"op": "cancel", "run_id": v},
        lambda v: {"op": "handover", "run_id": v},
        lambda v: {"op": "query", "name": v},
        lambda v: {"op": "query", "name": "runs", "params": {"limit": str(v)}},
        lambda v: {"op": "query", "name": "runs", "params": v or 7},
        lambda v: {"op": "query", "name": "run", "params": {"run_id": v if not isinstance(v, str) else 7}},
        lambda v: {"op": "recommend", "model": v},
        lambda v: {"op": "bring_model", "kind": v, "path": "/x", "name": "x"},
        lambda v: {"op": "bring_model", "kind": "huggingface", "path": v, "name": "x"},
        lambda v: {"op": "bring_model", "kind": "huggingface", "path": "/x", "name": v},
        lambda v: {"op": "bring_model", "kind": "huggingface", "path": "/x", "name": "x", "labels": v or 7},
        lambda v: {"op": "forget_model", "name": v},
    ]
    for place in places:
        for value in HOSTILE:
            with pytest.raises(InvalidInput) as refused:
                raw._exchange_once(place(value), 20)
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000, json.dumps(place(value))
    assert hub.client.query("runs") == before == [] and hub.client.query("brought_models") == []
    assert hub.client.query("run", run_id=HOSTILE[0]) == []


def test_fifty_simultaneous_identical_submissions_are_one_run(hub):
    hub.hold()
    config = {"model": "toy", "options": {"optimization_strategies": ["quantization"]}}
    with ThreadPoolExecutor(25) as pool:
        ids = set(pool.map(lambda _: hub.client.submit(config, token="one"), range(50)))
    assert len(ids) == 1 and len(hub.client.query("runs")) == 1


def test_a_client_brings_a_dead_hub_back_but_not_one_that_was_stopped(hub, wait_for):
    hub.kill()
    assert hub.client.status()["running"] == 0
    hub.client.stop()
    wait_for(lambda: not hub.client.is_reachable())
    with pytest.raises(HubUnavailable, match="was stopped; start it with"):
        hub.client.status()


def test_a_full_disk_refuses_new_runs_with_the_figure_and_answers_on(tmp_path, monkeypatch):
    from workers.answers import Answers
    from workers.paths import DataPaths

    answers = Answers(None, DataPaths(tmp_path), None, list, None, None, None)
    assert answers.disk_problem() is None
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 << 20})())
    assert answers.disk_problem().startswith(f"read-only: 5 MB are free beside {tmp_path}, 200 are needed")


def test_forgetting_a_conflict_that_is_not_remembered_is_one_sentence(hub_for_all):
    assert hub_for_all.client.query("conflicts") == []
    with pytest.raises(InvalidInput, match="conflict 'nope' is not remembered"):
        hub_for_all.client.forget_conflict("nope")


def test_an_answer_in_preparation_still_goes_out_when_the_server_closes(tmp_path):
    asked, closing = threading.Event(), threading.Event()

    def slow(_):
        asked.set()
        assert closing.wait(10)
        return "ended", None

    server = SocketServer(tmp_path / "socket", slow)
    server.start()
    with socket.socket(socket.AF_UNIX) as peer, ThreadPoolExecutor(1) as pool:
        peer.connect(str(tmp_path / "socket"))
        peer.sendall(encode_frame({"op": "stop"}))
        assert asked.wait(10)
        ended = pool.submit(server.close)
        while (tmp_path / "socket").exists():
            pass
        closing.set()
        assert read_answer(peer)[0] == "ended"
        ended.result(10)
