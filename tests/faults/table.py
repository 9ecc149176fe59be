"""What was measured, beside what was asked for."""

import statistics
from dataclasses import dataclass


@dataclass
class Row:
    what: str
    goal: str
    values: list
    unit: str
    holds: object  # of median and worst
    least_is_worst: bool = False

    @property
    def met(self):
        return bool(self.values) and bool(self.holds(*self.median_and_worst()))

    def median_and_worst(self):
        return statistics.median(self.values), (min if self.least_is_worst else max)(self.values)

    def cells(self):
        if not self.values:
            return [self.what, self.goal, "-", "-", "0", "not measured"]
        median, worst = self.median_and_worst()
        shown = [f"{value:,.{0 if value == int(value) else 3 if value < 10 else 1}f} {self.unit}".strip() for value in (median, worst)]
        return [self.what, self.goal, *shown, str(len(self.values)), "yes" if self.met else "**no**"]


def at_most(what, values, worst, unit="", median=None):
    """Every value has to be at most `worst`; the median too at most `median`, where that is given."""
    goal = f"≤ {worst:g} {unit}".strip() if median is None else f"median ≤ {median:g}, worst ≤ {worst:g} {unit}".strip()
    return Row(what, goal, list(values), unit, lambda middle, most: most <= worst and (median is None or middle <= median))


def median_at_most(what, values, median, unit=""):
    return Row(what, f"median ≤ {median:g} {unit}".strip(), list(values), unit, lambda middle, _: middle <= median)


def at_least(what, values, least, unit=""):
    """The median has to be at least so much."""
    return Row(what, f"median ≥ {least:g} {unit}".strip(), list(values), unit, lambda middle, _: middle >= least, least_is_worst=True)


def told(what, values, unit=""):
    """Only said, without a goal."""
    return Row(what, "-", list(values), unit, lambda *_: True)


def markdown(rows):
    yield "| | goal | median | worst | runs | met |"
    yield "|---|---|---:|---:|---:|---|"
    for row in rows:
        yield f"| {' | '.join(row.cells())} |"
