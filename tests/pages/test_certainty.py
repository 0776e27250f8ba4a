"""The result says how sure it is: each process of the winner, the noise, what could not be seen, the cost."""

from pages.components.certainty import between_sentence, cost_sentence
from tests.pages.test_page_states import texts


def test_the_result_shows_each_process_of_the_winner(client, open_page):
    at = open_page("run", run="r-done")
    (table,) = [d.value for d in at.dataframe if "Process" in d.value]
    assert list(table["Process"]) == [1, 2, 3] and list(table["Timed pairs"]) == [16, 16, 16]
    assert "1.33" in table["Speed"][0] and "1.32" in table["95 % inside it"][0] and "1.34" in table["95 % inside it"][0]
    assert not at.exception


def test_the_result_says_the_noise_the_detectable_gain_and_the_cost(client, open_page):
    shown = texts(open_page("run", run="r-done"))
    assert "Two measurements of the same thing differ by up to 1.2 % on this device today." in shown
    assert "A gain in speed of 2.1 % or more would have been seen in every recipe of the final race" in shown
    assert "19 measure processes: measuring 60 %, process start and imports 37 %, orchestration 3 %." in shown


def test_a_result_of_an_older_version_is_shown_without_them(client, open_page):
    for name in ("noise", "detectable", "cost"):
        del client.results["r-done"][name]
    client.trials["r-done"] = [t for t in client.trials["r-done"] if str(t.purpose) != "final"]
    at = open_page("run", run="r-done")
    assert "How sure this is" not in texts(at) and not at.exception


def test_the_cost_of_odd_numbers_is_left_out():
    for cost in ({}, {"wall_s": 0.0, "parts_s": {}}, {"wall_s": "x", "parts_s": {"a": 1.0}}, {"wall_s": 1.0}):
        assert cost_sentence({"cost": cost}) == ""


def test_the_result_says_by_how_much_processes_differ_and_of_what_that_is_known():
    between = {"sd": 0.123, "degrees": 4, "source": "this model"}
    said = between_sentence({"between_processes": between}, 3)
    assert said.endswith("Processes differ by 12\\.3 % (one standard deviation, known from this model).")
    for less in ({"sd": None}, {"source": ""}, {"sd": "x"}):
        wide = between_sentence({"between_processes": between | less}, 3)
        assert "The one of the result is wider" in wide and "differ by" not in wide
    for nothing in ({}, {"between_processes": 3}, {"between_processes": {"sd": None}}):
        assert "a repetition may land outside" in between_sentence(nothing, 1)
        assert "The one of the result is wider" in between_sentence(nothing, 2)


def test_the_events_of_rounds_are_told_in_words(client, open_page):
    from pages.components.events import event_lines

    data = {"trial_id": "r:final.2:attention_fusion=sdpa", "key": "attention_fusion=sdpa", "round": 2}
    (line,) = event_lines([{"kind": "round_started", "time": 0.0, "data": data}])
    assert "process 2 began" in line and "sdpa" in line
