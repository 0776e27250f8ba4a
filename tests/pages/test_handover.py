"""Taking a result home from the page: code, recipe, and a folder in each of its states."""

import pytest

from tests.pages.test_page_states import HOSTILE, assert_calm, texts

RUN = "r-done"


def button(at):
    return next((b for b in at.button if b.label == "Prepare the folder"), None)


def downloads(at):
    return [str(element.proto.label) for element in at.get("download_button")]


def test_the_command_to_paste_is_always_there(client, open_page):
    at = open_page("run", run=RUN)
    assert any(code.value == f"python -m workers export {RUN} my-model" for code in at.code)
    assert downloads(at) == ["Download code", "Download recipe"]


def test_the_folder_is_asked_for_made_and_downloaded(client, open_page):
    at = open_page("run", run=RUN)
    button(at).click().run()
    assert_calm(at)
    assert client.exports[RUN]["state"] == "working" and "The folder is being made: building." in texts(at)
    assert button(at) is None
    client.exports[RUN] = {"state": "ready", "bytes": 3 << 20, "path": "/data/cache/exports/r-done.zip"}
    at = at.run()
    assert "Download folder (3.0 MiB)" in downloads(at) and "being made" not in texts(at)


def test_what_is_too_large_is_said_with_the_limit(client, open_page):
    client.exports[RUN] = {"state": "too_large", "bytes": 5 << 30}
    at = open_page("run", run=RUN)
    assert "The folder has 5.0 GiB; up to 64.0 MiB can be downloaded here." in at.info[0].value


@pytest.mark.parametrize("reason", ["the disk is full", HOSTILE])
def test_a_failure_is_a_sentence_and_can_be_tried_again(client, open_page, reason):
    client.exports[RUN] = {"state": "failed", "reason": reason}
    at = open_page("run", run=RUN)
    assert_calm(at)
    shown = next(w.value for w in at.warning if "could not be made" in w.value)
    assert "<img" not in shown.replace("\\<", "") and "](" not in shown.replace("\\]", "").replace("\\(", "")
    assert button(at) is not None


def test_a_run_without_a_result_offers_nothing_to_take_away(client, open_page):
    at = open_page("run", run="r-failed")
    assert "Take it away" not in texts(at) and button(at) is None
