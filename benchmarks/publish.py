"""docs/performance.md and its pictures, made of the numbers in docs/performance/*.json.

    .venv/bin/python benchmarks/publish.py [--no-plots]

The table stands between two marks in the document and is written anew; the text around it is not touched. Pictures
need the extra `benchmark` (matplotlib).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "performance"
DOCUMENT = ROOT / "docs" / "performance.md"

BEGIN = "<!-- made by benchmarks/publish.py from docs/performance/*.json -->"
END = "<!-- end -->"

NODE = "mcpv-node"
ERAS = ("legacy", "modern")

# In this order everywhere; what is not here comes behind.
ORDER = (
    "floor",
    NODE,
    "direct HTTP (SDK)",
    "mcp-proxy (PyPI)",
    "mcp-proxy (npm)",
    "supergateway",
    "fastmcp proxy",
)


def load(name: str) -> dict[str, Any] | None:
    """What one benchmark has left; None where it was not run."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def tables(gateway: dict[str, Any] | None, many: dict[str, Any] | None) -> str:
    """All that stands between the marks."""
    parts: list[str] = []
    if gateway is not None:
        parts.append(_conditions(gateway))
        for era in ERAS:
            parts += _era_table(era, gateway["eras"][era])
    if many is not None:
        parts += _load_table(many)
    return "\n".join(parts)


def _conditions(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Measured {result['measured']}: {machine['cores']} shared cores ({machine['system']}, Python "
        f"{machine['python']}), load average {machine['load']}; {result['rounds']} interleaved slices of "
        f"{result['seconds']:g} s for each load, medians.\n"
    )


def _era_table(era: str, found: dict[str, Any]) -> list[str]:
    lines = [
        f"### {era.capitalize()} era\n",
        "| | calls/s, 16 in flight, of the floor's | node is faster by | added p50 / p99, 1 in flight | "
        "processor time a call, alone / with children | memory, alone / with children | "
        "1,000 tools listed, of the floor's |",
        "|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    own = found.get(NODE, {}).get("loads", {}).get("16", {}).get("of_floor")
    for name in names_in(found):
        entry = found[name]
        for kind in ("call", "list"):
            why = entry.get(f"failed_{kind}")
            if why is not None:
                notes.append(f"{name}, {'calls' if kind == 'call' else 'lists'}: {why.replace('|', ' ')}")
        lines.append(_row(name, entry, own))
    lines.append("")
    lines += [f"- {note}" for note in notes]
    if notes:
        lines.append("")
    return lines


def _row(name: str, entry: dict[str, Any], own: float | None) -> str:
    loads = entry["loads"]
    one, many, listed, memory = loads.get("1"), loads.get("16"), loads.get("list"), entry.get("rss_mb")
    shown = f"**{name}**" if name == NODE else name
    package = f" `{entry['package']}`" if entry.get("package") else ""
    cells = [
        f"{shown}{package}",
        "–" if many is None else f"{share(many['of_floor'])} ({many['rate']:,.0f}/s)",
        "–" if many is None or own is None else f"{own / many['of_floor']:.1f}x",
        "–" if one is None else f"{one['added_p50_ms']:.2f} / {one['added_p99_ms']:.2f} ms",
        "–" if many is None else f"{many['cpu_alone_us']:,.0f} / {many['cpu_us']:,.0f} us",
        "–" if memory is None else f"{memory['alone']:.0f} / {memory['all']:.0f} MB",
        "–" if listed is None else f"{share(listed['of_floor'])} ({listed['rate']:,.0f}/s)",
    ]
    return f"| {' | '.join(cells)} |"


def share(value: float) -> str:
    """A ratio with as many digits as say something."""
    return f"{value:.2f}x" if value >= 0.1 else f"{value:.2g}x"


def names_in(found: dict[str, Any]) -> list[str]:
    """The targets of one era in our order, without the server over its own pipes."""
    known = [name for name in ORDER if name in found]
    return [*known, *(name for name in found if name not in known and name != "direct stdio")]


def _load_table(result: dict[str, Any]) -> list[str]:
    rows = [("an idle session", f"{result['session_kb']:.1f} KB", f"of {result['sessions']:,}")]
    if "stream_kb" in result:
        rows.append(("an open stream", f"{result['stream_kb']:.1f} KB", f"of {result['streams']:,}"))
    if "rate" in result:
        count = f"{result['clients']:,} clients calling at once"
        rows.append(
            (count, f"{result['rate']:,}/s, p50 {result['p50_ms']:.0f} ms", f"{result['errors']} failed")
        )
        rows.append(("a connection that calls", f"{result['client_kb']:.1f} KB", f"of {result['clients']:,}"))
    rows.append(("the node with all of it", f"{result['rss_mb']:.0f} MB", ""))
    left = f"{result['left_behind']} processes left behind"
    rows.append(("stopped with all of it open", f"{result['stop_seconds']:.1f} s", left))
    return [
        "### Many clients\n",
        "| | | |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        *(f"\nLeft out: {sentence}." for sentence in result["left_out"]),
        "",
    ]


def replace_between(document: str, made: str) -> str:
    """The document with what stands between the marks written anew."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCUMENT.name} has no place for the tables: {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


# --- pictures -----------------------------------------------------------------------------------


def plot(gateway: dict[str, Any]) -> None:
    """One picture for each thing that is compared, both eras side by side; shares of the floor, in powers of ten."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same numbers make the same file.
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "mcpv-node"
    _plot_one(gateway, "calls.svg", "tools/call, 16 in flight: calls/s of the floor's", "16", "of_floor")
    _plot_one(gateway, "lists.svg", "tools/list of 1,000 tools: lists/s of the floor's", "list", "of_floor")
    _plot_one(gateway, "latency.svg", "tools/call, 1 in flight: added p50 (ms)", "1", "added_p50_ms")
    _plot_one(gateway, "cpu.svg", "processor time a call, 16 in flight, with children (us)", "16", "cpu_us")


def _plot_one(gateway: dict[str, Any], file: str, title: str, load: str, value: str) -> None:
    from matplotlib import pyplot as plt

    names = _names_with(gateway["eras"].values(), load)
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.2))
    height = 0.38
    for number, era in enumerate(ERAS):
        found = gateway["eras"][era]
        places: list[float] = []
        values: list[float] = []
        for at, name in enumerate(names):
            one = found.get(name, {}).get("loads", {}).get(load)
            if one is not None and one[value] > 0:
                places.append(at + (number - 0.5) * height)
                values.append(one[value])
        bars = axes.barh(places, values, height, label=f"{era} era")
        axes.bar_label(bars, labels=[f"{one:.3g}" for one in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / file, metadata={"Date": None})
    plt.close(figure)


def _names_with(eras: Iterable[dict[str, Any]], load: str) -> Sequence[str]:
    found = {name: None for era in eras for name in names_in(era) if load in era[name]["loads"]}
    return [name for name in ORDER if name in found]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-plots", action="store_true", help="the tables alone")
    given = parser.parse_args()
    gateway = load("gateway")
    DOCUMENT.write_text(replace_between(DOCUMENT.read_text(), tables(gateway, load("load"))))
    if gateway is not None and not given.no_plots:
        plot(gateway)
    return 0


if __name__ == "__main__":
    sys.exit(main())
