"""How sure a result is: each process of the final race, the noise of the device, what it cost to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from hybrid_core.records import BASELINE_KEY
from pages.components import tables
from pages.components.format import duration, interval, is_number, percent, plain, ratio, recipe_text, sentence
from pages.components.hub import query

Row = Mapping[str, Any]


def certainty_part(run: Row, result: Row, trials: Sequence[Row]) -> None:
    """The processes of the winner, then the noise, which gain would have been seen, and where the time went."""
    key = run.get("winner_key") or BASELINE_KEY
    environment = environment_of(_final(key, trials))
    rounds = [entry for entry in environment.get("rounds") or [] if isinstance(entry, Mapping)]
    told = [text for text in (noise_sentence(result), detectable_sentence(result), cost_sentence(result)) if text]
    if not rounds and not told:
        return
    st.subheader("How sure this is")
    if rounds:
        st.caption(f"{plain(recipe_text(key))} in the final race, one row for each fresh process.")
        alt = "Speed against the untouched model in each process of the final race, with intervals"
        tables.draw(rounds_table(rounds), "run_rounds", alt)
        st.caption(f"Each interval is the one inside its process. {between_sentence(environment, len(rounds))}")
    for text in told:
        st.markdown(text)


def environment_of(trial: Row | None) -> Row:
    """What is stored beside a trial's figures; it lacks "rounds" where it was one measurement of an older version."""
    rows = query("trial", trial_id=str(trial["trial_id"])) if trial else []
    return (rows[0].get("environment") or {}) if rows else {}


def between_sentence(environment: Row, processes: int) -> str:
    """What the interval of the result holds, and by how much other processes are known to differ."""
    between = environment.get("between_processes")
    spread = between.get("sd") if isinstance(between, Mapping) else None
    if processes == 1 and not is_number(spread):
        return (
            "It is also that of the result: how far another process would differ is not known yet, so a repetition may "
            "land outside of it."
        )
    wide = (
        "The one of the result is wider: in 95 % of cases the same measurement, done again with as many processes, "
        "lands in it."
    )
    source = between.get("source") if isinstance(between, Mapping) else None
    if not is_number(spread) or not source:
        return wide
    return f"{wide} Processes differ by {plain(percent(spread))} (one standard deviation, known from {plain(source)})."


def rounds_table(rounds: Sequence[Row]) -> tables.Table:
    """One row per process."""
    return {
        "Process": list(range(1, len(rounds) + 1)),
        "Speed": [ratio(entry.get("ratio")) for entry in rounds],
        "95 % inside it": [interval(entry.get("low"), entry.get("high")) for entry in rounds],
        "Timed pairs": [entry.get("pairs") for entry in rounds],
        "Took": [duration(entry.get("seconds")) for entry in rounds],
    }


def noise_sentence(result: Row) -> str:
    """How far two measurements of the same thing differ on this device."""
    said = (result.get("noise") or {}).get("sentence")
    return sentence(said, 400) if said else ""


def detectable_sentence(result: Row) -> str:
    """Which gain no recipe of the race could have hidden."""
    gain = result.get("detectable")
    if not is_number(gain):
        return ""
    return f"A gain in speed of {plain(percent(gain))} or more would have been seen in every recipe of the final race."


def cost_sentence(result: Row) -> str:
    """Where the wall time of the run went, the largest share first, orchestration last."""
    cost = result.get("cost") or {}
    parts, wall_s = cost.get("parts_s"), cost.get("wall_s")
    if not isinstance(parts, Mapping) or not is_number(wall_s) or wall_s <= 0:
        return ""
    last = "orchestration"
    names = sorted((name for name in parts if is_number(parts[name]) and name != last), key=lambda n: -parts[n])
    shares = [f"{name} {percent(parts[name] / wall_s, digits=0)}" for name in (*names, last) if name in parts]
    processes = f"{cost.get('processes')} measure processes"
    return plain(f"Of {duration(wall_s)} in {processes}: {', '.join(shares)}.", 500)


def _final(key: str, trials: Sequence[Row]) -> Row | None:
    finals = [t for t in trials if t.get("purpose") == "final" and t.get("outcome") == "ok"]
    return next((t for t in finals if t.get("recipe_key") == key), None)
