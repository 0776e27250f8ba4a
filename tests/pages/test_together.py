"""What ensembles gained together stands on the result; what failed together can be forgotten."""

CONFLICT = {
    "conflict_id": "c0ffee",
    "recipe_key": "kernel_fusion=compile+quantization=bfloat16",
    "family": "llama",
    "model": "llama",
    "device": "cpu",
    "versions": "a processor, torch 2.13.0",
    "outcome": "crashed",
    "reason": "the compiler ended with signal 11",
    "stage": "compile",
    "run_id": "r-done",
    "trial_id": "r-done:search:x",
    "started_at": 1_790_000_000.0,
    "seconds": 20.0,
    "evidence": "kernel_fusion=compile in run r-done, quantization=bfloat16 in run r-done",
}


def test_a_result_shows_measured_product_and_synergy_with_a_verdict(client, open_page):
    at = open_page("run", run="r-done")
    (table,) = [d.value for d in at.dataframe if "Synergy" in d.value]
    assert list(table["Of"]) == ["speed", "memory"]
    assert list(table["Verdict"]) == ["worse together", "as expected"]
    assert "0.94" in table["Synergy"][0] and "1.43" in table["Product of singles"][0]
    assert table["Synergy"][0].count("[") == 1 and "[" not in table["Synergy"][1]
    assert not at.exception


def test_a_run_without_ensembles_shows_no_such_table(client, open_page):
    at = open_page("run", run="r-none")
    assert not any("Synergy" in d.value for d in at.dataframe)


def test_what_failed_together_is_shown_with_its_evidence_and_can_be_forgotten(client, open_page):
    client.conflicts = [CONFLICT]
    at = open_page("leaderboard")
    (table,) = [d.value for d in at.dataframe if "Each works alone" in d.value]
    assert table["Why"][0] == CONFLICT["reason"] and table["Holds for"][0] == CONFLICT["versions"]
    at.button(key="forget_conflict").click().run()
    assert client.conflicts == [] and "may be tried again" in at.success[0].value
    assert not at.exception


def test_without_conflicts_a_sentence_says_so(client, open_page):
    at = open_page("leaderboard")
    assert any("No combination is known to fail" in c.value for c in at.caption)
