"""Serves the dashboard over the fake hub, to look at: `python tests/pages/preview.py PORT [busy|empty|down|gpu]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def serve(port: int, state: str) -> None:
    from streamlit.web import bootstrap

    from pages.components import hub
    from tests.pages.fake_client import FakeClient, busy_client

    client = FakeClient() if state == "empty" else busy_client()
    client.is_down, client.gpus = state == "down", int(state == "gpu")
    hub.open_client = lambda: client
    options = {"server.port": port, "server.headless": True}
    bootstrap.load_config_options(options)
    bootstrap.run(str(ROOT / "app.py"), False, [], options)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "busy")
