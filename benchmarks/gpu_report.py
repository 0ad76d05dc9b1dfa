"""The Markdown page of `benchmarks.gpu`: what was measured, on which card, and what failed."""

NO_GPU = (
    "**No GPU was had: these are times of a CPU, of small problems, and the Triton kernel ran in its interpreter. They"
    " show that the script runs, and nothing about a GPU.**"
)
LOSS = {
    "floor_us": "floor by bytes", "kernel_us": "kernel", "kernel_over_floor": "over floor",
    "ours_us": "forward and backward", "ours_over_floor": "over floor", "kl_eager_us": "KL, eager",
    "kl_compiled_us": "KL, compiled", "ours_in_a_loop_us": "in a loop", "kl_eager_in_a_loop_us": "KL in a loop",
    "geomloss": "geomloss", "POT solve_batch": "POT solve_batch",
}  # fmt: skip
STEP = {
    "step_ms": "step, ms", "texts_per_second": "texts/s", "loss_us": "loss, us", "share_of_loss": "share of the loss",
    "peak_GB": "peak, GB",
}  # fmt: skip
RUN = {
    "run_seconds": "s", "sd_before": "SD before", "sd_after": "after", "accuracy_before": "accuracy before",
    "accuracy_after": "after", "peak_GB": "peak, GB", "device": "device",
}  # fmt: skip


def markdown(results):
    """Return the page of all parts' results."""
    parts = results["parts"]
    facts = {key: value for part in parts if part["part"] == "environment" for key, value in part.items()}
    described = ", ".join(
        f"{key} {facts[key]}" for key in ("card", "torch", "triton", "cuda", "python") if key in facts
    )
    copied = [f"{part['TB_per_second']} TB/s" for part in parts if "TB_per_second" in part]
    lines = ["# The loss and a distillation step on a GPU", "", *([] if results["on_a_gpu"] else [NO_GPU, ""])]
    lines += [f"{described}; a copy moves {', '.join(copied) or 'unknown'}; {results['total_seconds']} s in all.", ""]
    lines += ["Microseconds of a batch of B texts, L labels, K teachers; medians.", ""]
    lines += _table("(B, L, K)", LOSS, _by_shape(parts))
    lines += _table("step of", STEP, {p["part"].replace("step of ", ""): p for p in parts if "step_ms" in p})
    lines += _table("run of", RUN, {p["part"].replace("run of ", ""): p for p in parts if "run_seconds" in p})
    lines += [f"Tests: {part['summary']}" for part in parts if "summary" in part]
    lines += [f"- {line}" for part in parts for line in part.get("skipped", [])]
    lines += [f"Best block and warps, {part['part']}: {part['best']}" for part in parts if "best" in part]
    lines += ["", "Seconds: " + ", ".join(f"{part['part']} {part['seconds']}" for part in parts) + "."]
    failed = [f"- {part['part']}: {part['error']}" for part in parts if "error" in part]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])]) + "\n"


def _by_shape(parts):
    """Join the parts of one shape: our loss, the compiled KL and the competitors."""
    rows = {}
    for part in parts:
        name, bracket, shape = part["part"].partition(" (")
        if name == "POT solve_batch" or name in ("loss", "compiled KL", "geomloss"):
            found = {name: part["us"]} if "us" in part else part
            rows.setdefault(bracket.strip() + shape, {}).update(found)
    return rows


def _table(first, columns, rows):
    shown = {key: title for key, title in columns.items() if any(key in row for row in rows.values())}
    if not shown:
        return []
    lines = [f"| {first} | " + " | ".join(shown.values()) + " |", "|" + " --- |" * (1 + len(shown))]
    lines += [f"| {name} | " + " | ".join(str(row.get(key, "")) for key in shown) + " |" for name, row in rows.items()]
    return [*lines, ""]
