"""The claim of a run: the student before and after, with the intervals that one run can have."""

from typing import Any

import numpy as np

from knot_fed.reporting.page import Claim, PageSection
from knot_fed.reporting.run.figures import claim_figure
from knot_fed.runs.statistics import paired_interval, verdict_of

CLAIMED = (("sd", "SD"), ("macro_f1", "macro-F1"))


def result_section(summary: dict[str, Any]) -> PageSection:
    """Return the first section of a run that measured its student before and after."""
    details = summary.get("details", {})
    own, intervals = summary["domains"].get(details.get("domain")), details.get("intervals")
    claims = [_over_domains(name, summary, key) for key, name in CLAIMED]
    if own and intervals:
        claims += [_over_texts(name, details["domain"], own, key, intervals[key]) for key, name in CLAIMED]
    figures = claim_figure(summary) if own else ()
    return PageSection("Result", claims=claims, text=_scope(own, intervals), figures=figures)


def _over_domains(name: str, summary: dict[str, Any], key: str) -> Claim:
    """Return the change of the mean of the domains, with its interval over the domains if there are several."""
    before, after = summary["student"]["before"][key], summary["student"]["after"][key]
    changes = np.array([domain["after"][key] - domain["before"][key] for domain in summary["domains"].values()])
    told = f"{name}, mean of {len(changes)} domain(s): {before:.3f} → {after:.3f}, difference {after - before:+.3f}"
    if len(changes) < 2:
        return Claim(f"{told}; one domain, so no interval over domains.")
    low, high = paired_interval(changes)
    return Claim(f"{told} [{low:+.3f}, {high:+.3f}], paired t over the domains.", verdict_of(key, low, high))


def _over_texts(name: str, domain: str, own: dict[str, Any], key: str, interval: dict[str, list[float]]) -> Claim:
    before, after = own["before"][key], own["after"][key]
    low, high = interval["difference"]
    return Claim(
        f"{name} on the server's test set ({domain}): {before:.3f} → {after:.3f}, difference {after - before:+.3f}"
        f" [{low:+.3f}, {high:+.3f}], bootstrap over its {own['after']['examples']:,} texts.",
        verdict_of(key, low, high),
    )


def _scope(own: dict[str, Any] | None, intervals: dict[str, Any] | None) -> str:
    """Say what the intervals cover, and what not."""
    told = "Intervals are 95 %; undecided: the interval includes zero. That over the domains covers which take part."
    if own and intervals:
        told += (
            f" The bootstrap ({intervals['resamples']:,} resamples of the server's test texts, before and after paired)"
            " covers the choice of these texts; clients send means only, so their texts cannot be resampled."
        )
    else:
        told += " This run kept no interval over the server's test texts."
    return f"{told} This is one run of one seed, which no interval here covers: a sweep over several seeds does."
