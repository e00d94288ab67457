"""Tables of the documentation, written from recorded runs.

A page says which record and which columns stand between two marks,

    <!-- table blocks: seed fg_ari ari; fg_ari 0.95, ari 0.9 -->
    <!-- end of table -->

and `python -m docs.tables` writes there what `docs/records/blocks.json` holds: a list
of rows, as the examples leave it in `seeds.json` and the benchmarks with `--record`.
After a semicolon stand the least scores of a good run; `forward_ms/first` is a column
as a multiple of its first row, `mse/mse_of_mean_image` one as a share of another. A
line for each of several records stands between

    <!-- summary "On gray" gray, "On black" black: fg_ari 0.96, soft_ari 0.95 -->
    <!-- end of summary -->

`--check` writes nothing and refuses a page whose tables are not those of their records.
"""

import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


DOCS = Path(__file__).parent
RECORDS = DOCS / "records"
Rows = Sequence[Mapping[str, Any]]

COLUMNS = {  # title and format; a column that is not here keeps its name
    "ahead_1": ("error one frame ahead", ".2f"),
    "ahead_5": ("five frames ahead", ".2f"),
    "ap_0.125": ("AP at 0.125", ".3f"),
    "ap_0.25": ("AP at 0.25", ".3f"),
    "ap_0.5": ("AP at 0.5", ".3f"),
    "ap_1": ("AP at 1", ".3f"),
    "ap_inf": ("AP at infinity", ".3f"),
    "ari": ("ARI", ".3f"),
    "attention_agreement": ("agreement", ".2f"),
    "attention_fg_ari": ("FG-ARI of the attention", ".3f"),
    "attention_mbo": ("mBO of the attention", ".3f"),
    "background_mask": ("largest mask, background", ".3f"),
    "both_ms": ("both ways, ms", ".1f"),
    "both_us": ("both ways, µs", ",.0f"),
    "colour": ("colour", ".3f"),
    "count_accuracy": ("count right", ".3f"),
    "crowded_images": ("crowded", ".2f"),
    "dead_100": ("dead at 100", ".2f"),
    "dead_400": ("at 400", ".2f"),
    "dead_800": ("at 800", ".2f"),
    "duplicate_slots": ("duplicates", ".2f"),
    "effective_slots": ("effective", ".2f"),
    "error": ("error", ".0e"),
    "error_0": ("error at 0", ".2f"),
    "error_800": ("at 800", ".2f"),
    "fg_ari": ("FG-ARI", ".3f"),
    "forward_ms": ("forward, ms", ".1f"),
    "forward_us": ("forward, µs", ",.0f"),
    "from": ("from", ""),
    "gradient_0": ("gradient at 0", ".4f"),
    "gradient_100": ("at 100", ".4f"),
    "gradient_800": ("at 800", ".4f"),
    "held": ("held", ",.0f"),
    "least": ("least", ".2f"),
    "long_ari": ("ARI of 24 frames", ".3f"),
    "long_fg_ari": ("FG-ARI of 24 frames", ".3f"),
    "long_soft_ari": ("soft ARI of 24 frames", ".3f"),
    "lost_objects": ("lost", ".2f"),
    "material": ("material", ".3f"),
    "mbo": ("mBO", ".3f"),
    "memory_mb": ("memory, MB", ",.0f"),
    "merged_objects": ("merged", ".2f"),
    "miou": ("mIoU", ".3f"),
    "mirrored": ("mirrored", ".2f"),
    "most": ("most", ".2f"),
    "moved_100": ("step at 100", ".4f"),
    "mse": ("MSE", ".4f"),
    "mse/mse_of_mean_image": ("of mean image", ".3f"),
    "name": ("", ""),
    "page_faults": ("page faults", ",.0f"),
    "place": ("place, R2", ".3f"),
    "position_dependence": ("position", ".2f"),
    "probe": ("probe", ""),
    "reconstruction_error": ("error", ".2f"),
    "saturated_error": ("saturated", ".2f"),
    "scored_on": ("scored on", ""),
    "seconds": ("seconds", ".0f"),
    "seed": ("seed", ""),
    "shape": ("shape", ".3f"),
    "share_of_mean": ("error, of mean features", ".3f"),
    "shared_background": ("shared background", ".3f"),
    "size": ("size", ".3f"),
    "soft_ari": ("soft ARI", ".3f"),
    "soft_fg_ari": ("soft FG-ARI", ".3f"),
    "soft_mbo": ("soft mBO", ".3f"),
    "soft_miou": ("soft mIoU", ".3f"),
    "step_ms": ("step, ms", ".0f"),
    "step_us": ("step, µs", ",.0f"),
    "switches": ("switches", ",.0f"),
    "undecided_background": ("undecided background", ".3f"),
    "undecided_objects": ("undecided objects", ".2f"),
}
MEANS = (("mean", statistics.fmean), ("standard deviation", statistics.pstdev))
NO_SCORE = ("name", "seed", "seconds")  # without a mean over the seeds
MARKED = re.compile(
    r"^<!-- table (\S+): ([^;]+?)(?:; (.+?))? -->\n(.*?)^<!-- end of table -->$",
    flags=re.MULTILINE | re.DOTALL,
)
SUMMARY = re.compile(
    r"^<!-- summary (\".+?\" \w+): (.+?) -->\n(.*?)^<!-- end of summary -->$",
    flags=re.MULTILINE | re.DOTALL,
)


def table(
    rows: Rows, columns: Sequence[str], demands: Mapping[str, float] | None = None
) -> str:
    """Markdown of the rows; of seeds also mean, spread, and how many were good."""
    demands = demands or {}
    rows = [dict(row) | _shares(row, columns) for row in rows]
    for name in columns:
        if not any(name.partition("/")[0] in row for row in rows):
            raise ValueError(f"No row has `{name}`, only {', '.join(rows[0])}.")
    titles = ["" if "/first" in it else COLUMNS.get(it, (it, ""))[0] for it in columns]
    cells = [[_cell(row, column, rows) for column in columns] for row in rows]
    verdicts = [_verdict(row, demands) for row in rows]
    if columns[0] == "seed":
        scores = {name: _known(rows, name) for name in columns if name not in NO_SCORE}
        for title, of in MEANS:
            row = {name: of(known) for name, known in scores.items() if known}
            cells.append([title] + [_cell(row, name, rows) for name in columns[1:]])
            verdicts.append("")
    if any(verdicts):
        titles.append("")
        cells = [[*row, verdict] for row, verdict in zip(cells, verdicts)]
    lines = [titles, ["---"] * len(titles), *cells]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return re.sub(r"\|  (?=\|)", "| ", text) + _summary(rows, demands)


def _shares(row, columns):
    """The columns of the row that are one of its numbers over another."""
    pairs = {column: column.split("/") for column in columns if "/" in column}
    known = lambda pair: all(row.get(name) is not None for name in pair)
    return {it: row[p[0]] / row[p[1]] for it, p in pairs.items() if known(p)}


def _cell(row, column, rows):
    name = column.removesuffix("/first")
    value, form = row.get(name), COLUMNS.get(name, (name, ""))[1]
    if value is None or value != value:
        return ""
    if name != column:
        multiple = value / rows[0][name]
        return f"{multiple:.1f}x" if multiple >= 1 else f"{multiple:.2f}x"
    # Without the sign of what is rounded to zero.
    return f"{value:z{form}}" if isinstance(value, float) else f"{value:{form}}"


def _known(rows, name):
    """JSON has no NaN: a score that is none is no part of the mean."""
    return [row[name] for row in rows if row.get(name) is not None]


def _is_good(row, demands):
    reached = lambda name: math.nan if row.get(name) is None else row[name]
    return all(reached(name) >= least for name, least in demands.items())


def _verdict(row, demands):
    stopped = row.get("stopped", "finished")
    verdict = [] if stopped == "finished" else [stopped]
    return ", ".join(verdict if _is_good(row, demands) else [*verdict, "not reached"])


def _summary(rows, demands):
    if not demands:
        return ""
    wanted = [f"{COLUMNS[name][0]} of {least}" for name, least in demands.items()]
    good = sum(_is_good(row, demands) for row in rows)
    return f"\nIn {good} of {len(rows)} seeds: {' and '.join(wanted)} or more.\n"


def summary(records: Mapping[str, Rows], demands: Mapping[str, float]) -> str:
    """Markdown of a line for each record: how good, and how many seeds good enough."""
    titles = [""]
    for score in demands:
        titles += [f"mean {COLUMNS[score][0]}", "least"]
    titles.append(f"seeds of {' and '.join(map(str, demands.values()))} or more")
    lines = [titles, ["---"] * len(titles)]
    for name, rows in records.items():
        line = [name]
        for score in demands:
            known = _known(rows, score)
            ends = (statistics.fmean(known), min(known))
            line += [f"{number:{COLUMNS[score][1]}}" for number in ends]
        good = sum(_is_good(row, demands) for row in rows)
        lines.append([*line, f"{good} of {len(rows)}"])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text.replace("|  |", "| |", 1)


def record(name: str, rows: Rows) -> None:
    """Keep the rows of a run for the documentation."""
    (RECORDS / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")


def written(page: str) -> str:
    """The page with each table as its record says."""

    read = lambda name: json.loads((RECORDS / f"{name}.json").read_text())

    def scores(text):
        pairs = (pair.split() for pair in text.split(", "))
        return {score: float(value) for score, value in pairs}

    def summary_of(match):
        names, least, _ = match.groups()
        pairs = re.findall(r'"(.+?)" (\w+)', names)
        text = summary({t: read(name) for t, name in pairs}, scores(least))
        start = match[0].split("\n", 1)[0]
        return f"{start}\n\n{text}\n<!-- end of summary -->"

    def of(match):
        name, columns, least, _ = match.groups()
        rows = read(name)
        start = match[0].split("\n", 1)[0]
        text = table(rows, columns.split(), scores(least) if least else {})
        return f"{start}\n\n{text}\n<!-- end of table -->"

    for kind, mark, line in (("table", MARKED, 4), ("summary", SUMMARY, 13)):
        if page.count(f"<!-- {kind} ") != len(mark.findall(page)):
            form = __doc__.splitlines()[line].strip()
            raise ValueError(f"A mark is not of the form {form}")
    return SUMMARY.sub(summary_of, MARKED.sub(of, page))


def main(options: Sequence[str]) -> None:
    stale = []
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text()
        if written(page) != page:
            stale.append(str(path.relative_to(DOCS.parent)))
            if "--check" not in options:
                path.write_text(written(page))
    if stale and "--check" in options:
        raise SystemExit(f"{', '.join(stale)}: run `python -m docs.tables`.")
    print(*(f"wrote {name}" for name in stale), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
