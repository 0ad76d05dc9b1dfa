"""The sections of a model card, in Markdown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from knot_fed.data.partition import client_name
from knot_fed.files import shorten_paths
from knot_fed.models import ModelSpec
from knot_fed.runs.log import printable
from knot_fed.runs.method import clients_answered, method_of
from knot_fed.runs.statistics import half_interval
from knot_fed.runs.tables import geometry_note
from knot_fed.types import MEAN

if TYPE_CHECKING:
    from knot_fed.publishing.card import Packaging

LONGEST = 200
"""Letters of a name in a card."""
MOST_ROWS = 100
"""Rows of a table in a card."""
MARKUP = re.compile(r"([\\`*_{}\[\]<>|~#$&!^=])")
SHOWN = (("sd", "SD ↓"), ("accuracy", "accuracy ↑"), ("macro_f1", "macro-F1 ↑"), ("ece", "ECE ↓"))
CITATION = """## Citation

The method is that of *KNOT: Knowledge Distillation using Optimal Transport for Solving NLP Tasks* (Bhardwaj, Vaidya,
Poria; COLING 2022):

```bibtex
@inproceedings{bhardwaj2022knot,
  title     = {{KNOT}: Knowledge Distillation using Optimal Transport for Solving {NLP} Tasks},
  author    = {Bhardwaj, Rishabh and Vaidya, Tushar and Poria, Soujanya},
  booktitle = {Proceedings of the 29th International Conference on Computational Linguistics},
  year      = {2022},
  note      = {arXiv:2110.02432}
}
```

The software is [knot_fed](https://github.com/knot-fed/knot_fed); its `CITATION.cff` says how to cite it."""


@dataclass(frozen=True, slots=True)
class About:
    """What a card is about: the run's name, summary and configuration, the student, and the number of shared texts."""

    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    spec: ModelSpec
    shared_texts: int

    @property
    def public(self) -> str:
        """The name of the public test set."""
        return str(self.summary["details"]["domain"])


def headline(about: About) -> str:
    """Say what the model does, and where it comes from."""
    reads = "a pair of texts" if about.spec.paired else "a text"
    sent = "parameters" if "fedavg" in about.summary else "soft labels"
    return (
        f"# {escaped(about.name)}\n\nGives {reads} a distribution over {len(about.spec.labels)} labels (task"
        f" {escaped(about.summary['task'])}). It is the student of a federated run of knot_fed:"
        f" {escaped(clients_answered(about.summary))}, with {sent} and not with texts."
    )


def labels(about: About) -> str:
    """List the labels in the order of the model's outputs, with their coordinates."""
    places = about.summary.get("coordinates") or [[]] * len(about.spec.labels)
    ordered = any(len(place) for place in places)
    rows = [
        [index, escaped(name), ", ".join(f"{value:g}" for value in place)]
        for index, (name, place) in enumerate(zip(about.spec.labels, places, strict=True))
    ]
    told = (
        "Distances between coordinates are those in meaning, which the training loss and SD use."
        if ordered
        else "The labels have no coordinates: every two of them are equally far apart."
    )
    if note := geometry_note(about.summary):
        told = f"{escaped(note)}. In these coordinates SD is measured." if ordered else told
    return f"## Labels\n\n{told}\n\n{table(['index', 'label', 'coordinates'], rows)}"


def use(about: About, packaging: "Packaging") -> str:
    """Give code that loads the model, and say what it needs."""
    pair = about.spec.paired
    if packaging.library != "transformers":
        asked = '("the first text", "the second text")' if pair else '"a text"'
        code = f"""import knot_fed
from knot_fed.training.teacher import predict_soft_labels

student = knot_fed.load_student("{packaging.place}")
print(dict(zip(student.spec.labels, predict_soft_labels(student, [{asked}])[0])))"""
        needs = "The folder needs knot_fed; `knot-fed export` makes one that transformers loads alone."
    else:
        asked = '{"text": "the first text", "text_pair": "the second text"}' if pair else '"a text"'
        trust = ", trust_remote_code=True" if packaging.code else ""
        code = f"""from transformers import pipeline

classify = pipeline("text-classification", "{packaging.place}"{trust})
print(classify({asked}, top_k=None, truncation=True))"""
        needs = (
            f"The model's code is in the folder ({', '.join(f'`{file}`' for file in packaging.code)}); read it before"
            " you allow it to run. Where knot_fed is installed, `import knot_fed.hub` replaces `trust_remote_code`."
            if packaging.code
            else "The model's class is part of transformers, so no other code runs."
        )
    told = [f"## How to use\n\n```python\n{code}\n```", needs, _reading(about)]
    if packaging.onnx:
        told.append(
            f"`model.onnx` (opset {packaging.onnx}) gives logits for what the tokenizer returns, in any batches."
        )
    return "\n\n".join(told)


def training(about: About) -> str:
    """Say how the student was trained."""
    config, summary = about.config, about.summary
    student, teacher = config.get("student", {}), config.get("teacher", {})
    kind = escaped(shorten_paths(about.spec.name))
    if about.spec.trainable == "head":
        kind = f"a head (layer norm, 1024 units) on mean-pooled features of the frozen encoder {kind}"
    if about.spec.lora is not None:
        kind = f"{kind}, by low-rank adapters (LoRA, rank {about.spec.lora.rank}) that are added to its weights"
    start = "random parameters of what is trained"
    if student.get("pretrain"):
        start = f"training on the public set {escaped(about.public)}" + (
            ", with its temperature fitted to the validation split" if student.get("calibrate") else ""
        )
    distil = config.get("distill", {})
    rows = [
        ["model", kind],
        ["start", start],
        ["method", escaped(method_of(summary))],
        ["rounds", config.get("rounds", "")],
        ["temperature of the teachers", teacher.get("temperature", "")],
        ["seed", summary["seed"]],
    ]
    if "distillation" in summary:
        most = distil.get("epochs", "?")
        rows.insert(4, ["epochs", f"{summary['distillation']['epochs']} of at most {most} a round"])
    return "## Training\n\n" + table(["what", "value"], rows)


def roles(about: About) -> str:
    """Say which data had which role; names and counts are those of the run's summary."""
    data = about.config.get("data", {})
    rows = [
        [escaped(client["name"]), "private examples of one client", client["examples"], escaped(client["status"])]
        for client in about.summary["clients"]
    ]
    rows.append([escaped(about.public), "public labelled set: the student's start and a test set", "", ""])
    if data.get("transfer"):
        shared = about.shared_texts or ""
        rows.append([escaped(client_name(data["transfer"])), "transfer texts, whose labels were not read", shared, ""])
    return "## Data\n\n" + table(["name", "role", "examples", "status"], rows)


def metrics(about: About) -> str:
    """Give the metrics on each test set before and after the run, with the intervals that the summary allows."""
    domains = sorted(about.summary["domains"].items())
    if not domains:
        return "## Metrics\n\nNo test set was measured."
    titles = [title for _, title in SHOWN]
    rows = [[escaped(name), *_before_after(found), found["after"]["examples"]] for name, found in domains]
    means = _means([found for _, found in domains])
    rows.append([f"**{MEAN}**", *means, sum(found["after"]["examples"] for _, found in domains)])
    several = (
        f" In the last row it is Student's t over the {len(domains)} test sets: how much the mean would vary with other"
        " test sets like these."
        if len(domains) > 1
        else ""
    )
    return (
        "## Metrics\n\nBefore the run → after it, on test texts that no training read. SD is the distance of the mean"
        " prediction from the truth among the labels' coordinates. The interval after an accuracy is Wilson's 95 % over"
        f" the texts of the test set.{several}\n\n" + table(["test set", *titles, "texts"], rows)
    )


def privacy(about: About) -> str:
    """Give the privacy guarantee in the words of the summary."""
    found = about.summary["privacy"]
    said = [f"## Privacy\n\nMechanism: {escaped(found['mechanism'])}. Guarantee: **{escaped(found['guarantee'])}**."]
    facts = [
        ["epsilon", found.get("epsilon")], ["delta", found.get("delta")], ["unit", found.get("unit")],
        ["neighbouring relation", found.get("neighbouring")], ["sensitivity", found.get("sensitivity")],
        ["accountant", found.get("accountant")],
    ]  # fmt: skip
    if found.get("epsilon") is not None:
        said.append(table(["what", "value"], [[key, escaped(f"{value}")] for key, value in facts if value is not None]))
    if found.get("compression", "none") != "none":
        said.append(f"Soft labels were compressed ({escaped(found['compression'])}), which guarantees nothing.")
    if found.get("epsilon") is None:
        said.append("Without differential privacy, what the student learnt may reveal something of single examples.")
    return "\n\n".join(said)


def limits(about: About) -> str:
    """Say what the model is for, and what it is not for."""
    tested = ", ".join(escaped(name) for name in sorted(about.summary["domains"])) or "no test set"
    return (
        f"## Intended use and limits\n\n- For texts like those it was tested on ({tested}), in their language.\n"
        "- It always answers with one of its labels, also for a text to which none applies.\n"
        "- Its probabilities are as reliable as the ECE above says; fit a temperature to examples of your own before"
        " you act on them.\n"
        "- It was not tested for differences between groups of people: do not decide on people by it alone.\n"
        "- The licence is not stated here: its owner decides, and an encoder's own licence applies to its weights."
    )


def versions(about: About) -> str:
    """List the versions of the run, and of the software that wrote the card."""
    rows = [[escaped(name), escaped(number)] for name, number in sorted(about.summary["versions"].items())]
    return "## Versions\n\n" + table(["package", "version"], [*rows, ["this card: knot-fed", version("knot-fed")]])


def escaped(name: object) -> str:
    r"""Return a name as plain text for Markdown: one line, without markup, of bounded length.

    Examples
    --------
    >>> escaped("so | *so*\n<b>")
    'so \\| \\*so\\* \\<b\\>'
    """
    return MARKUP.sub(r"\\\1", one_line(name))


def one_line(name: object) -> str:
    r"""Return a name on one line, without control characters, of bounded length.

    Examples
    --------
    >>> one_line(" two\nlines ")
    'two lines'
    """
    line = printable(" ".join(str(name).split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def table(titles: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    """Return a Markdown table; of many rows, the first ones."""
    lines = [titles, ["---"] * len(titles), *rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append([f"and {len(rows) - MOST_ROWS} more", *[""] * (len(titles) - 1)])
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _reading(about: About) -> str:
    spec, separator = about.spec, about.config.get("data", {}).get("separator", "")
    if spec.name == "ngram-bag":
        told = "It reads whole texts, whatever their length."
    else:
        what = "each text of a pair" if spec.paired and spec.trainable == "head" else "an example"
        told = f"It reads the first {spec.max_length} tokens of {what}, or as many as its encoder can; the rest is cut."
    if spec.paired and separator:
        told += f" In training, texts were cut in two at the first '{escaped(separator)}': give the parts as a pair."
    return told


def _before_after(found: dict[str, dict[str, float]]) -> list[str]:
    cells = [f"{found['before'][key]:.3f} → {found['after'][key]:.3f}" for key, _ in SHOWN]
    texts, share = int(found["after"]["examples"]), found["after"]["accuracy"]
    if texts:
        low, high = binomtest(round(share * texts), texts).proportion_ci(method="wilson")
        cells[1] += f" ({low:.3f} to {high:.3f})"
    return cells


def _means(found: Sequence[dict[str, dict[str, float]]]) -> list[str]:
    cells = []
    for key, _ in SHOWN:
        before, after = (np.array([each[when][key] for each in found], dtype=float) for when in ("before", "after"))
        half = half_interval(after)
        interval = "" if np.isnan(half) else f" ± {half:.3f}"
        cells.append(f"{before.mean():.3f} → {after.mean():.3f}{interval}")
    return cells
