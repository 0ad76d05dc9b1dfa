"""Runs and sweeps made up from random numbers, in the shape that real ones have."""

import json
import math

import numpy as np
import pandas as pd
import tomli_w

from knot_fed.audit.frontier.report import write_frontier
from knot_fed.audit.report import write_audit_report
from knot_fed.labels import LabelSpace
from knot_fed.runs.run_folder import RunFolder
from knot_fed.sweep.results import tidy, write_table
from knot_fed.sweep.statistics import compare_with_baseline
from knot_fed.training.evaluation import bootstrap_intervals, evaluate_classifier, evaluation_details, mean_metrics


def make_run(runs, name, *, task="emotion", seed=1, clients=("chats", "films", "radio"), sharp=4.0, **distillation):
    """Write a run folder whose student gets sharper."""
    generator, labels = np.random.default_rng(seed), LabelSpace.preset(task)
    domains, details = {}, {}
    for domain in (*clients, "public"):
        truth = generator.integers(0, len(labels), size=300)
        domains[domain], told = {}, []
        for when, concentration in (("before", 1.0), ("after", sharp)):
            noise = generator.dirichlet(np.full(len(labels), 0.3), size=300)
            answers = (noise + concentration * generator.random((300, 1)) * np.eye(len(labels))[truth]) / 4
            answers /= answers.sum(axis=1, keepdims=True)
            domains[domain][when] = evaluate_classifier(answers, truth, labels)
            details[when] = evaluation_details(answers, truth, labels).to_mapping()
            told.append(answers)
    details["intervals"] = bootstrap_intervals(*told, truth, labels, seed=seed)
    student = {when: mean_metrics([d[when] for d in domains.values()]).to_mapping() for when in ("before", "after")}
    settings = {"loss": "ot", "objective": "pooled", "weights": "confidence", "cost": "semantic"} | distillation
    folder = RunFolder.create(runs, name)
    folder.write_config(
        {
            "seed": seed, "task": task, "model": "tiny-bert", "rounds": 2, "name": name, "data.transfer": "forum",
            "data.public": "public", "distill.loss": settings["loss"], "distill.objective": settings["objective"],
            "weights.scheme": settings["weights"], "transport.cost": settings["cost"],
        }
    )  # fmt: skip
    folder.write_summary(
        {
            "status": "ok",
            "error": None,
            "task": task,
            "seed": seed,
            "labels": list(labels.names),
            "coordinates": labels.coordinates.tolist(),
            "clients": [
                {"name": client, "examples": 3000, "status": "ok", "bytes_up": 102286 + 900 * place,
                 "bytes_down": 1_254_539, "seconds": 7.5 + place}
                for place, client in enumerate(clients)
            ],
            "student": student,
            "domains": {name: {when: m.to_mapping() for when, m in d.items()} for name, d in domains.items()},
            "details": {"domain": "public", **details},
            "distillation": settings | {"epochs": 14, "seconds": 5.0, "seconds_in_loss": 0.2},
            "privacy": {"mechanism": "none", "guarantee": "no guarantee"},
            "data": {
                "public": {"file": "public.csv", "sha256": "a1" * 32},
                "transfer": {"file": "forum.csv", "sha256": "b2" * 32, "fingerprint": "c3" * 32, "texts": 1947,
                             "repeated": 53},
            },
            "started": "2026-05-04T03:02:01Z",
            "device": "CPU (x86_64), 1 torch thread(s)",
            "config_sha256": folder.config_digest(),
            "versions": {"torch": "2.13.0", "flwr": "1.41.0"},
            "wall_seconds": 35.4,
        }
    )  # fmt: skip
    for number in (1, 2):
        held = (0.4 / number + 0.5 * np.exp(-np.arange(8) / 2)).tolist()
        folder.append_round(
            {"round": number, "train_losses": [loss - 0.02 for loss in held[1:]], "validation_losses": held,
             "best_epoch": 6}
        )  # fmt: skip
    return folder


def make_sweep(folder, *, seeds=(1, 2, 3), domains=("chats", "films", "public")):
    """Write `results.csv`, `comparison.csv` and `sweep.toml` of three losses with two weightings."""
    generator = np.random.default_rng(7)
    folder.mkdir()
    results = []

    def add(line, goodness, seed, *, cell=None, up=""):
        loss, weights = cell or ("", "confidence" if line == "ensemble" else "")
        for domain in (*domains, "mean"):
            good = goodness + generator.normal(scale=0.015)
            results.append(
                {
                    "cell": f"{loss}-{weights}" if cell else "", "seed": seed, "loss": loss,
                    "objective": "pooled" if cell else "", "weights": weights, "cost": "semantic" if cell else "",
                    "line": line, "domain": domain, "sd": 1.3 - good, "w1": 1.6 - good,
                    "sd_calibrated": 1.2 - good, "accuracy": 0.2 + good / 2,
                    "macro_f1": 0.15 + good / 2, "ece": 0.4 - good / 2, "examples": 300, "bytes_up": up,
                    "bytes_down": 12 * up if up else "", "seconds": 6.5 if up else "",
                }
            )  # fmt: skip

    for seed in seeds:
        add("student before", 0.1, seed)
        for domain in domains:
            add(f"teacher {domain}", 0.2, seed)
        add("ensemble", 0.42, seed)
        add("centralised", 0.6, seed)
        add("fedavg", 0.5, seed, up=90_000_000)
        for loss, base in (("ot", 0.45), ("entropy", 0.38), ("kl", 0.36)):
            for weights, more in (("uniform", 0.0), ("confidence", 0.03)):
                add("student after", base + more, seed, cell=(loss, weights), up=102_000)
    table = tidy(results)
    write_table(table, folder / "results.csv")
    write_table(compare_with_baseline(table), folder / "comparison.csv")
    grid = {"distill.loss": ["ot", "entropy", "kl"], "weights.scheme": ["uniform", "confidence"]}
    sweep = {"clients": 3, "config": {"task": "emotion"}, "grid": grid}
    (folder / "sweep.toml").write_text(tomli_w.dumps(sweep))
    return folder


def make_frontier(file):
    """Write the page of the price of privacy."""
    rows = [
        {"study": "", "mechanism": mechanism, "epsilon": epsilon, "delta": delta, "loss": loss, "settings": "",
         "unit": unit, "seeds": 3, "sd": 0.8 + 0.2 / min(epsilon, 50) + (0.02 if loss == "entropy" else 0.0),
         "sd_half": 0.01, "macro_f1": 0.4, "macro_f1_half": math.nan, "bytes_up": 1e5, "gain_kept": 0.8,
         "lead": math.nan if loss == "entropy" else 0.02, "lead_half": math.nan if loss == "entropy" else 0.03,
         "audited_epsilon": min(epsilon, 4.0) / 2, "tpr_own_row": 0.01 + min(epsilon, 16) / 100,
         "tpr_nearest_rows": 0.02, "tpr_student": 0.01, "mix_kl": 0.05, "mix_kl_pooled": 0.04}
        for mechanism, epsilon, delta, unit in (
            ("gaussian", 2.0, 1e-5, "client"), ("gaussian", 8.0, 1e-5, "client"), ("none", math.inf, 0.0, "none")
        )
        for loss in ("entropy", "ot")
    ]  # fmt: skip
    write_frontier(pd.DataFrame(rows), file, ["plain", "private"], ["a note"], [("plain: time", "35 s")])
    return file


def make_audit(file):
    """Write the page of an audit."""
    generator = np.random.default_rng(3)
    common = {"client": "phones", "seed": 1, "low": 0.0, "high": 1.0, "count": 7}
    rows = [
        common | {"attack": attack, "case": case, "measure": measure, "value": value}
        for attack, case, measure, value in (
            ("membership", "own row, online", "tpr_at_1%", 0.25), ("membership", "own row, online", "auc", 0.75),
            ("membership", "nearest rows, online", "tpr_at_1%", 0.05), ("label-mix", "soft labels", "kl", 0.05),
            ("canaries", "canaries", "epsilon_lower_bound", 0.94),
        )
    ]  # fmt: skip
    members = generator.random((1, 400)) < 0.5
    scores = {case: (generator.normal(size=(1, 400)) + shift * members, members)
              for case, shift in (("own row, online", 1.0), ("nearest rows, online", 0.3))}  # fmt: skip
    write_audit_report(file, pd.DataFrame(rows), {"membership": scores}, [("task", "sentiment")])
    return file


def change_summary(folder, **changes):
    """Overwrite keys of a made-up run's summary."""
    file = folder.path / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
