"""The claim of a run: the student before and after, with an interval where there can be one."""

from typing import Any

from knot_fed.reporting.page import Claim, PageSection
from knot_fed.reporting.run.figures import claim_figure
from knot_fed.runs.statistics import verdict_of

CLAIMED = (("sd", "SD"), ("macro_f1", "macro-F1"))


def result_section(summary: dict[str, Any]) -> PageSection:
    """Return the first section of a run that measured its student before and after."""
    details, student = summary.get("details", {}), summary["student"]
    domain, intervals = details.get("domain", ""), details.get("intervals")
    own = summary["domains"].get(domain)
    claims = []
    if own and intervals:
        claims = [
            Claim(
                _with_interval(name, domain, own, key, intervals[key]), verdict_of(key, *intervals[key]["difference"])
            )
            for key, name in CLAIMED
        ]
    claims += [Claim(_without_interval(name, student, key)) for key, name in CLAIMED]
    return PageSection(
        "Result", claims=claims, text=_scope(own, intervals), figures=claim_figure(summary) if own else ()
    )


def _with_interval(name: str, domain: str, own: dict[str, Any], key: str, interval: dict[str, list[float]]) -> str:
    before, after = own["before"][key], own["after"][key]
    low, high = interval["difference"]
    return (
        f"{name} on the server's test set ({domain}): {before:.3f} → {after:.3f}, difference {after - before:+.3f}"
        f" [{low:+.3f}, {high:+.3f}]."
    )


def _without_interval(name: str, student: dict[str, Any], key: str) -> str:
    before, after = student["before"][key], student["after"][key]
    return f"{name}, mean of the domains: {before:.3f} → {after:.3f}, difference {after - before:+.3f}."


def _scope(own: dict[str, Any] | None, intervals: dict[str, Any] | None) -> str:
    """Say what the interval covers, and what not."""
    one = "This is one run of one seed: whether another seed agrees, a sweep over several seeds tells."
    if not (own and intervals):
        return f"There is no interval: this run kept none over its test texts. {one}"
    return (
        f"Intervals: 95 % by a bootstrap of the {own['after']['examples']:,} test texts of the server"
        f" ({intervals['resamples']:,} resamples, before and after paired). They cover the choice of these test texts"
        " only; the mean of the domains has none, since clients send means and not the values of single texts."
        f" {one}"
    )
