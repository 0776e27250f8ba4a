"""Pages over a fake hub: one seam is replaced, everything else is the real application."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from streamlit.runtime.pages_manager import PagesManager  # noqa: E402
from streamlit.testing.v1 import AppTest, app_test  # noqa: E402

from pages.components import hub  # noqa: E402
from tests.pages.fake_client import FakeClient, busy_client  # noqa: E402


class WarmPagesManager(PagesManager):
    """A server whose table of pages was read before. AppTest forgets that on each run, and with it every click."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        PagesManager.uses_pages_directory = False


@pytest.fixture(autouse=True)
def still_pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A warm server without timers, and nothing cached from the test before."""
    monkeypatch.setattr(app_test, "PagesManager", WarmPagesManager)
    monkeypatch.setenv("HYBRID_REFRESH_S", "0")
    hub.forget()
    yield
    hub.forget()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """One of everything."""
    return use(busy_client(), monkeypatch)


@pytest.fixture
def empty_client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A hub that has never run anything."""
    return use(FakeClient(), monkeypatch)


@pytest.fixture
def open_page() -> Callable[..., AppTest]:
    """Open a page from the entry point, as a browser does."""

    def opener(name: str = "home", **query_params: str) -> AppTest:
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
        for key, value in query_params.items():
            at.query_params[key] = value
        if name != "home":
            # The table of pages must have been read once before a page can be switched to.
            at.run()
            at.switch_page(f"pages/{name}.py")
            for key, value in query_params.items():
                at.query_params[key] = value
        return at.run()

    return opener


def use(fake: FakeClient, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Let the pages find this client."""
    monkeypatch.setattr(hub, "open_client", lambda: fake)
    return fake
