"""What was run, for the report of a run."""

from typing import Any

from knot_fed.files import shorten_paths
from knot_fed.reporting.page import Facts
from knot_fed.runs.method import clients_answered, method_of


def run_facts(summary: dict[str, Any], config: dict[str, Any]) -> Facts:
    """Return what was run, on which data, with which versions; a digest that was not recorded is left out."""
    method, data = summary.get("distillation", summary.get("fedavg", {})), config.get("data", {})
    models = config.get("teacher", {}).get("models") or config.get("model", "")
    compression = summary["privacy"].get("compression", "none")
    return [
        ("task", f"{summary['task']}: {', '.join(summary['labels'])}"),
        ("method", method_of(summary)),
        ("clients", ", ".join(client["name"] for client in summary["clients"])),
        ("answers", clients_answered(summary)),
        ("models", shorten_paths(str(models))),
        *([] if "fedavg" in summary else [("transfer set", _file(summary, data, "transfer"))]),
        ("public test set", _file(summary, data, "public")),
        ("rounds", str(method.get("rounds", config.get("rounds", "")))),
        *([("SD and W1", f"in the geometry: {summary['geometry']}")] if summary.get("geometry") else []),
        ("seed", str(summary["seed"])),
        ("privacy", summary["privacy"]["guarantee"]),
        *([("compression", f"{compression}: fewer bytes, no guarantee")] if compression != "none" else []),
        *_course(method),
        *([("started", summary["started"])] if summary.get("started") else []),
        ("time", _time(summary, method["seconds"])),
        *([("device", summary["device"])] if summary.get("device") else []),
        ("versions", versions_in_words(summary["versions"])),
        *([("config.toml", f"SHA-256 {digest}")] if (digest := summary.get("config_sha256")) else []),
    ]


def versions_in_words(versions: dict[str, str]) -> str:
    """List packages with their versions."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _file(summary: dict[str, Any], data: dict[str, Any], role: str) -> str:
    """Describe a file of the server, with its digest and the transfer set's fingerprint if they were recorded."""
    name, found = shorten_paths(str(data.get(role, ""))), summary.get("data", {}).get(role, {})
    told = [name]
    if role == "transfer" and found.get("texts"):
        told.append(f"{found['texts']:,} texts, fingerprint {found['fingerprint']}")
    if found.get("sha256"):
        what = "generator's" if data.get("root") == "builtin" else "file's"
        told.append(f"{what} SHA-256 {found['sha256']}")
    return "; ".join(told)


def _course(method: dict[str, Any]) -> Facts:
    """Describe rounds that left the student unchanged; runs of an earlier version do not record them."""
    if not method.get("unmoved"):
        return []
    unmoved = f"{method['unmoved']} round(s) left the student unchanged: no epoch lowered its held-out loss"
    saturated = f"{method['saturated']:.0%} of the transfer texts have a top probability above .99"
    return [("distillation", f"{unmoved}; {saturated}")]


def _time(summary: dict[str, Any], method: float) -> str:
    """Describe the time of the run; for a resumed one, the method's time covers all its parts."""
    if summary.get("resumed"):
        return f"{summary['wall_seconds']:.0f} s since it was resumed; {method:.1f} s in the method, from its start"
    return f"{summary['wall_seconds']:.0f} s, of them {method:.1f} s in the method"
