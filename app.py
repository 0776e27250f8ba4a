"""The table of pages, and nothing else: `streamlit run app.py` opens the dashboard and starts the hub if none runs.

File stems are lower case and equal the URL path, because Streamlit knows a page in `pages/` by its stem until the table
below has been read once; a different path would greet the first deep link with "page not found".
"""

import gc

import streamlit as st

from pages.components.hub import hub
from pages.components.states import CAME_THROUGH_APP, guard

PAGES = (
    ("home", "Home", ":material/home:", "What runs now, what was found lately, and what to try next."),
    ("optimize", "Optimize", ":material/tune:", "Choose a model and start a search for its fastest faithful form."),
    (
        "models",
        "Models",
        ":material/deployed_code:",
        "What can be optimized, how large and how good it is; bring your own.",
    ),
    ("live", "Live", ":material/monitoring:", "Watch a search: candidates as they land, time left, the device."),
    ("run", "Result", ":material/emoji_events:", "What a search found, how sure it is, and the recipe to take away."),
    ("learning", "Learning", ":material/school:", "How a search went: who proposed what, and what it learned."),
    ("leaderboard", "Leaderboard", ":material/leaderboard:", "The winners of all runs, to filter and download."),
    ("devices", "Devices", ":material/memory:", "Processor, memory and GPUs now and over the last hour."),
)


@st.cache_resource(show_spinner=False)
def freeze_imports() -> bool:
    """Take what the imports made out of every later garbage collection, once per server."""
    gc.collect()
    gc.freeze()
    return True


def main() -> None:
    """One run of the script: the table, the hub, the page."""
    st.set_page_config(page_title="Hybrid Optimization", page_icon="\N{HIGH VOLTAGE SIGN}", layout="wide")
    page = st.navigation(
        [
            st.Page(f"pages/{stem}.py", title=title, icon=icon, url_path=stem, default=stem == "home", help=text)
            for stem, title, icon, text in PAGES
        ],
        position="top",
    )
    freeze_imports()
    st.session_state[CAME_THROUGH_APP] = True
    with guard(f"page {page.title}"):
        hub()
        page.run()


# Streamlit runs this file under that name; importing it draws nothing and starts no hub.
if __name__ == "__main__":
    main()
