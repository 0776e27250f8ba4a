"""The page of models: cards that tell what is known, and bringing, checking, refusing and forgetting one's own."""

import math

import pytest

from hybrid_core.errors import HubUnavailable
from pages.components import model_facts, run_form
from pages.components.model_card import form_address
from tests.pages.fake_catalog import LIMIT_OF_RANDOM, catalog, size_facts
from tests.pages.fake_rows import brought_model, brought_row

CPU = [{"id": "cpu"}]
HOSTILE = "<img src=x onerror=alert(1)> **b** [x](javascript:alert(1)) `c`\n# h"


def words(at):
    kinds = ("markdown", "caption", "info", "success", "warning", "error", "metric", "subheader")
    shown = [f"{getattr(e, 'value', '')} {getattr(e, 'label', '')}" for kind in kinds for e in getattr(at, kind)]
    return "\n".join(shown).replace("\\", "")


def fill(at, path="/home/me/net", name="net", **kind):
    at.text_input(key="bring_path").set_value(path)
    at.text_input(key="bring_name").set_value(name)
    return at


def test_a_card_tells_sizes_quality_limits_and_sources(client, open_page):
    at = open_page("models", model="llama")
    sizes = at.dataframe[0].value.set_index("Size")
    assert sizes.loc["full", "Parameters"] == sizes.loc["full", "Published"] == "405,853,388,800"
    assert (sizes.loc["tiny", "float32"], sizes.loc["tiny", "int4"]) == ("12.0 MiB", "1.5 MiB")
    assert sizes.loc["tiny", "Cache per token"] == "4.0 KiB"
    assert list(sizes["A run fits on"]) == ["cpu", "cpu", "nothing here"]
    assert list(sizes["Weights"]) == ["trained", "random", "random"]
    figures = {m.label.replace("\\", ""): m for m in at.metric}
    assert figures["Next-byte accuracy"].value == "56.1 %"
    assert figures["Next-byte accuracy"].delta == "95 %: 55.2 to 57.0"
    assert figures["Trivial answer"].value == "16.3 %" and figures["Bits per byte"].value == "2.200"
    assert figures["Repeated"].value == "0.031"
    shown = words(at)
    assert "full: A run holds the untouched model and the candidate, 3,023.8 GiB" in shown
    assert f"small, full: {LIMIT_OF_RANDOM}" in shown and "The Llama 3 Herd of Models" in shown
    assert "the standard library of Python" in str(at.table[0].value)


def test_a_model_without_a_task_says_what_accuracy_means(client, open_page):
    at = open_page("models", model="my-bert")
    assert "accuracy means agreement with the untouched model" in words(at) and not at.metric
    assert "as my-bert from /home/me/my-bert" in words(at)
    assert list(at.dataframe[0].value["Weights"]) == ["its own"] and "Published" not in at.dataframe[0].value


def test_the_address_names_the_model_and_the_choice_writes_it(client, open_page):
    at = open_page("models", model="convnet")
    assert at.selectbox(key="models_choice").value == "convnet"
    at.selectbox(key="models_choice").select("my-bert").run()
    assert at.query_params["model"] == "my-bert" and "### BERT encoder" in words(at)
    at.query_params["model"] = "llama"
    assert at.run().selectbox(key="models_choice").value == "llama"
    unknown = open_page("models", model=HOSTILE)
    assert "unknown here" in unknown.info[0].value and unknown.selectbox(key="models_choice").value == "llama"


def test_optimize_this_model_fills_the_form_with_a_size_that_fits(client, open_page):
    at = open_page("models", model="my-bert")
    at.button(key="model_optimize").click().run()
    assert at.title[0].value == "Optimize"
    assert (at.session_state["opt_model"], at.session_state["opt_size"]) == ("my-bert", "full")
    big_first = brought_model(sizes=["full", "small"], facts={"full": size_facts(10**12), "small": size_facts(10)})
    assert form_address(big_first) == {"model": "my-bert", "size": "small"}


def test_the_form_marks_brought_models_and_says_that_a_size_fits(client, open_page):
    at = open_page("optimize", model="my-bert")
    assert "my-bert (brought in)" in at.selectbox(key="opt_model").options
    assert "No labelled file came with it" in words(at) and "random" not in words(at)
    assert "so it fits." in words(at) and not at.button(key="opt_start").disabled


def test_a_size_that_does_not_fit_closes_start_with_both_figures(client, open_page):
    at = open_page("optimize", model="llama", size="full")
    (error,) = [e.value.replace("\\", "") for e in at.error]
    assert "3,023.8 GiB of weights in float32; cpu has 8.0 GiB, so it does not fit. Choose a smaller size" in error
    assert at.button(key="opt_start").disabled
    at.selectbox(key="opt_size").select("tiny").run()
    assert not at.error and not at.button(key="opt_start").disabled


def test_a_brought_model_is_checked_then_ready_and_shown_and_optimized(client, open_page):
    at = fill(open_page("models"))
    at.button(key="bring_start").click().run()
    assert (client.brought["net"]["kind"], client.brought["net"]["path"]) == ("huggingface", "/home/me/net")
    assert "being checked" in words(at) and "A process of its own is reading it" in words(at)
    client.finish_inspection("net")
    at.run()
    assert at.selectbox(key="models_choice").value == "net" and at.query_params["model"] == "net"
    open_page("optimize", model="net").button(key="opt_start").click().run()
    assert next(iter(client.submissions.values()))["model"] == "net"


def test_a_double_click_is_one_model(client, open_page):
    at = fill(open_page("models"))
    at.button(key="bring_start").click().run()
    at.button(key="bring_start").click().run()
    assert list(client.brought) == ["my-bert", "my-new", "my-odd", "net"] and not at.error


def test_bringing_what_is_ready_says_how_to_have_it_read_anew(client, open_page):
    at = fill(open_page("models"), "/home/me/my-bert", "my-bert")
    at.button(key="bring_start").click().run()
    assert "was brought in before; forget it to have it read anew" in words(at)


def test_a_refusal_of_the_hub_is_said_and_the_form_keeps_its_content(client, open_page):
    at = fill(open_page("models"), "net", "<b>")
    at.button(key="bring_start").click().run()
    assert "Not brought in: " in at.error[0].value and "<b>" not in client.brought
    assert at.text_input(key="bring_path").value == "net"


def test_a_refused_model_shows_its_reason_and_what_to_do(client, open_page):
    shown = words(open_page("models"))
    assert "Not usable:** config.json has the key 'auto_map', which is not allowed. Mend it" in shown


def test_forgetting_asks_once_more_and_the_model_leaves_every_form(client, open_page):
    at = open_page("models", model="my-bert")
    at.button(key="forget_my-bert").click().run()
    assert "my-bert" not in client.brought and "my-bert was forgotten" in at.success[0].value.replace("\\", "")
    assert at.selectbox(key="models_choice").value == "llama"
    assert not [o for o in at.selectbox(key="models_choice").options if "my-bert" in o]


def test_python_code_can_be_chosen_only_where_the_hub_allows_it_and_the_page_says_how(client, open_page):
    at = open_page("models")
    assert "Python code is off. To allow it, stop the hub, start it with" in words(at)
    at.radio(key="bring_kind").set_value("factory").run()
    assert at.button(key="bring_start").disabled
    client.allows_code = True
    at.run()
    assert not at.button(key="bring_start").disabled and "on for these packages: my_package" in words(at)


def test_nothing_brought_in_yet_is_a_sentence(empty_client, open_page):
    assert "Nothing was brought in yet." in words(open_page("models"))


def test_a_model_shadowed_by_the_registry_does_not_redraw_the_page_for_ever(client, open_page):
    client.brought["ghost"] = brought_row("ghost", "ready")
    at = open_page("models")
    assert not at.exception and "ghost" in words(at)


def test_a_hub_that_goes_away_while_bringing_is_a_sentence(client, open_page, monkeypatch):
    at = fill(open_page("models"))

    def lost(*_):
        raise HubUnavailable("the hub broke the connection; see the log")

    monkeypatch.setattr(client, "bring_model", lost)
    at.button(key="bring_start").click().run()
    assert not at.exception and "The hub broke the connection" in at.error[0].value


ODD = [None, "x", 7, [], {}, math.nan, True, {"a": None}, [None, {}], HOSTILE]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_whatever_the_facts_of_a_brought_model_hold_the_page_is_drawn(value, client, open_page):
    names = "parameters weights_bytes kv_cache_bytes_per_token quality limits sources training architecture fits"
    odd = dict.fromkeys(names.split(), value)
    quality = {name: value for name in model_facts.KNOWN_QUALITY if name != "value"} | {"value": 0.5}
    for number, facts in enumerate((odd, {**size_facts(10), "quality": quality})):
        name = f"odd{number}"
        client.brought[name] = brought_row(name, "ready", path=HOSTILE, reason=HOSTILE)
        client.the_catalog["models"].append(brought_model(name, title=HOSTILE, facts={"full": facts}))
        for at in (open_page("models", model=name), open_page("optimize", model=name)):
            assert not at.exception and not [e for e in at.error if "could not be drawn" in e.value]
            assert all("<img" not in e.value.replace("\\<img", "") for e in (*at.markdown, *at.caption, *at.error))


def test_fit_errors_are_only_for_what_is_known_not_to_fit():
    the_catalog = catalog()
    values = run_form.default_values(the_catalog)
    assert run_form.fit_errors(the_catalog, values) == {}
    assert list(run_form.fit_errors(the_catalog, {**values, "size": "full"})) == ["size"]
    assert run_form.fit_errors(the_catalog, {**values, "size": "full", "device": "cuda:0"}) == {}


def test_a_workload_that_several_sizes_share_stands_once():
    table = model_facts.workloads_table(catalog()["models"][0])
    assert table["Workload"] == ["prefill", "decode"] and table["Sizes"] == ["tiny, small, full"] * 2
    assert table["New tokens"] == [None, 16]


def test_the_overview_has_a_row_for_each_model_and_says_where_it_is_from():
    models = [*catalog()["models"], brought_model()]
    table = model_facts.overview_table(models, CPU)
    assert table["From"] == ["registry"] * 3 + ["huggingface"]
    assert table["Fits here"][0] == "tiny, small" and table["Quality"][0] == "56.1 % [55.2, 57.0]"
    assert model_facts.overview_table([], CPU) == {}
