"""Episodes kept from earlier calls: a hundred seeds of a searcher that thinks take longer than a table should to print.

An episode follows from the table, the seed and the code of the searchers, so it is the same whenever it is played; it
is kept under the hash of all three and forgotten when one of them changes. So a replay can be spread over several
calls, and from a fresh checkout it is a matter of seconds. `--afresh` plays everything again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.search.episodes import Case, Episode, Episodes
from hybrid_core.adaptive.shipped import FOLDER as SHIPPED
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import to_json

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "search_episodes.parquet"
# What decides which recipe is asked for next, and what it is told.
CODE = (
    "hybrid_core/config.py",
    "hybrid_core/fitness.py",
    "hybrid_core/recipes.py",
    "hybrid_core/adaptive/*.py",
    "hybrid_core/rl/*.py",
    "hybrid_core/search/space.py",
    "hybrid_core/search/seen.py",
    "hybrid_core/search/hypervolume.py",
    "hybrid_core/search/searchers/*.py",
    "hybrid_core/selection/*.py",
    "benchmarks/search/table.py",
    "benchmarks/search/episodes.py",
)
ABOUT = b"hybrid_search_episodes"
SCHEMA = pa.schema(
    [
        ("mode", pa.string()),
        ("table", pa.string()),
        ("searcher", pa.string()),
        ("seed", pa.int16()),
        ("own_s", pa.float32()),
        ("error", pa.string()),
        ("order", pa.list_(pa.uint16())),
    ]
)


def fingerprint(tables: Mapping[str, Path]) -> dict[str, str]:
    """What the episodes depend on: the code as one hash, each table as one, and what the mode tells a searcher."""
    code = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(ROOT.glob(pattern)):
            code.update(path.read_bytes())
    code.update(json.dumps(to_json(HybridOptimizationConfig()), sort_keys=True).encode())
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in sorted(tables.items())}
    together = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
    shipped = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SHIPPED.glob("*.json"))))
    told = {"warm": together, "shipped": shipped.hexdigest()[:16]}
    return {"code": code.hexdigest()[:16], **told, **{f"table {name}": text for name, text in hashes.items()}}


def load_kept(now: Mapping[str, str], path: Path = KEPT) -> Episodes:
    """The episodes that would be played alike today."""
    if not path.exists():
        return {}
    table = pq.read_table(path)
    then = json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))
    if then.get("code") != now["code"]:
        return {}
    kept: Episodes = {}
    for row in table.to_pylist():
        case: Case = (row["mode"], row["table"], row["searcher"])
        name = f"table {row['table']}"
        is_same = then.get(name) == now.get(name) and then.get(row["mode"]) == now.get(row["mode"])
        if is_same and name in now:
            kept.setdefault(case, {})[row["seed"]] = Episode(tuple(row["order"]), row["own_s"], row["error"])
    return kept


def write_kept(episodes: Episodes, now: Mapping[str, str], path: Path = KEPT) -> None:
    """Keep them for the next call; replaced at once."""
    rows = [
        {"mode": mode, "table": table, "searcher": searcher, "seed": seed}
        | {"own_s": episode.own_s, "error": episode.error, "order": list(episode.order)}
        for (mode, table, searcher), played in sorted(episodes.items())
        for seed, episode in sorted(played.items())
    ]
    found = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({ABOUT: json.dumps(dict(now)).encode()})
    partial = path.with_suffix(".partial")
    pq.write_table(found, partial, compression="zstd", compression_level=19)
    partial.replace(path)
