"""What was measured, what it comes to, and the tables that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from acmix_nas.research.speed.cases import MEMORY, Bound, Comparison, Ratio
from acmix_nas.research.speed.stats import Estimate, ratio, ratio_of_numbers
from acmix_nas.util.files import write_document, write_text
from acmix_nas.util.intervals import LEVEL, quartiles
from acmix_nas.util.tables import markdown

__all__ = ["Measured", "Report", "Row", "files", "rows"]

ABSENT = "–"


@dataclass(frozen=True)
class Measured:
    """One subject at one point.

    Attributes:
        comparison: the title of the comparison.
        measure: `FAULT_FREE` or `DEFAULT`, whose values are milliseconds of a call, one for each round; or `MEMORY`, whose one
            value is bytes.
        batch: images of one call.
    """

    comparison: str
    point: str
    subject: str
    measure: str
    batch: int
    values: Sequence[float]

    @property
    def shown(self) -> str:
        """Return the values for a person: "12.3 (12.0–12.9) ms" or "4.56 MiB"."""
        if self.measure == MEMORY:
            return f"{_digits(self.values[0] / 2**20)} MiB"
        median, low, high = map(_digits, quartiles(self.values))
        return f"{median} ({low}–{high}) ms"


@dataclass(frozen=True)
class Row:
    """What a ratio is, in one measure, and what it should be."""

    comparison: str
    ratio: str
    measure: str
    estimate: Estimate
    bound: Bound | None

    @property
    def met(self) -> bool | None:
        """Return whether the target is reached. None where there is none."""
        return None if self.bound is None else self.bound.met(self.estimate.value)

    @property
    def cells(self) -> list[str]:
        value, low, high, points = self.estimate
        interval = ABSENT if low is None or high is None else f"{_digits(low)}–{_digits(high)}"
        answer = {None: ABSENT, True: "yes", False: "no"}[self.met]
        target = ABSENT if self.bound is None else str(self.bound)
        return [
            self.comparison, self.ratio, self.measure, target, _digits(value), interval, answer,
            " / ".join(map(_digits, points)),
        ]  # fmt: skip


HEADERS = ["case", "ratio", "of", "target", "measured", f"{LEVEL} %", "reached", "at each point"]


@dataclass(frozen=True)
class Report:
    """A benchmark.

    Attributes:
        conditions: provenance, machine, device, dtype, threads, repeats.
        rows: every ratio, with its target where it has one.
        measured: every subject, with the values of all rounds.
    """

    what: str
    conditions: Mapping[str, Any]
    rows: Sequence[Row]
    measured: Sequence[Measured]

    def tables(self) -> list[Table]:
        """Return the ratios, for the terminal: a table for each comparison."""
        shown = []
        for title in dict.fromkeys(row.comparison for row in self.rows):
            table = Table(*HEADERS[1:], title=title, title_justify="left")
            for row in self.rows:
                if row.comparison == title:
                    table.add_row(*row.cells[1:], style="red" if row.met is False else None)
            shown.append(table)
        return shown

    def markdown(self) -> str:
        """Write the conditions, the ratios, and the times and memory behind them as Markdown."""
        c, machine = self.conditions, self.conditions["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in c["versions"].items())
        measured = [[m.comparison, m.point, m.subject, m.measure, str(m.batch), m.shown] for m in self.measured]
        lines = [
            f"# Benchmark: {self.what}", "",
            f"Made by `{c['made_by']}` on {machine['device']}, {machine['cores']} cores, {c['threads']} CPU threads, "
            f"{c['dtype']}, {c['date']}; {versions}.", "",
            markdown(HEADERS, [row.cells for row in self.rows]), "",
            f"Ratios are of medians over {c['repeats']} rounds, per image, as geometric means over the points; a round calls "
            f"every subject once. The interval is a bootstrap's over rounds, at {LEVEL} %. Fault-free: time where the "
            "allocator keeps what is freed; default: time with the allocator as it is; memory: the peak of one call in a "
            "process of its own, above weights and inputs.", "",
            markdown(["case", "point", "subject", "of", "batch", "median (quartiles) of a call"], measured),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return everything, times in milliseconds and memory in bytes."""
        rows = [
            {
                "comparison": row.comparison, "ratio": row.ratio, "of": row.measure, **row.estimate._asdict(),
                "target": None if row.bound is None else str(row.bound), "met": row.met,
            }
            for row in self.rows
        ]  # fmt: skip
        return {**self.conditions, "what": self.what, "ratios": rows, "measured": [asdict(m) for m in self.measured]}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write bench-<what>.json and bench-<what>.md."""
        numbers, text = files(folder, self.what)
        return write_document(numbers, "benchmark", self.as_json()), write_text(text, self.markdown())


def files(folder: Path, what: str) -> tuple[Path, Path]:
    """Return the files of a benchmark's numbers and of its text."""
    return folder / f"bench-{what}.json", folder / f"bench-{what}.md"


def rows(comparison: Comparison, measured: Sequence[Measured]) -> list[Row]:
    """Return every ratio of a comparison, in every measure that there is."""
    return [
        Row(comparison.title, str(wanted), measure, _estimate(comparison, wanted, measure, measured), bound)
        for wanted in comparison.ratios
        for measure, bound in wanted.bounds.items()
        if any(m.comparison == comparison.title and m.measure == measure for m in measured)
    ]


def _estimate(comparison: Comparison, wanted: Ratio, measure: str, measured: Sequence[Measured]) -> Estimate:
    points: list[dict[str, list[float]]] = []
    for point in comparison.points:
        here = [m for m in measured if (m.comparison, m.point, m.measure) == (comparison.title, point.label, measure)]
        points.append({m.subject: [value / m.batch for value in m.values] for m in here})
    if measure != MEMORY:
        return ratio(points, wanted.over, wanted.under, wanted.worst)
    once = [{name: values[0] for name, values in times.items()} for times in points]
    return ratio_of_numbers(once, wanted.over, wanted.under, wanted.worst)


def _digits(value: float) -> str:
    """Format a value with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    return f"{float(f'{value:.3g}'):,.10f}".rstrip("0").rstrip(".").replace(",", "")
