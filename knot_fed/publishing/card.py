"""The model card of a run's student, as the hub reads it: front matter in YAML, then what a user must know."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knot_fed.errors import RunFolderError, writing_failed
from knot_fed.files import SHARED, write_file
from knot_fed.models import ModelSpec, hub_id, read_spec
from knot_fed.models.huggingface.lazily import huggingface_hub
from knot_fed.publishing import card_text as text
from knot_fed.runs.run_folder import RunFolder
from knot_fed.types import MEAN

CARD = "README.md"
TAGS = ("federated-learning", "knowledge-distillation", "optimal-transport", "knot-fed")
MEASURED = (("accuracy", "accuracy", "accuracy"), ("f1", "macro_f1", "macro-F1"), ("semantic-distance", "sd", "SD"))
"""Of the front matter: the hub's type of a metric, its key in the summary, and its name."""


@dataclass(frozen=True, slots=True)
class Packaging:
    """How the folder of a card is loaded.

    Parameters
    ----------
    library
        The hub's name of the library that loads it.
    place
        The folder or hub id in the example of use.
    code
        Python files in the folder that transformers must be allowed to run.
    onnx
        The opset of `model.onnx`; 0: there is none.
    """

    library: str = "knot-fed"
    place: str = "FOLDER"
    code: Sequence[str] = ()
    onnx: int = 0


def write_run_card(run: RunFolder) -> None:
    """Write or rewrite `student/README.md` from the run's summary, configuration and student."""
    file = run.student / CARD
    try:
        write_file(file, model_card(run, Packaging()).encode(), mode=SHARED)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {writing_failed(error)}") from None


def model_card(run: RunFolder, packaging: Packaging) -> str:
    """Return the model card of a run's student; names are escaped for YAML and Markdown."""
    summary, config, spec = run.read_summary(), run.read_config(), read_spec(run.student)
    name = run.path.resolve().name
    about = text.About(name, summary, config, spec, run.pooled_texts())
    sections = [
        text.headline(about),
        text.labels(about),
        text.use(about, packaging),
        text.training(about),
        text.roles(about),
        text.metrics(about),
        text.privacy(about),
        text.limits(about),
        text.versions(about),
        text.CITATION,
    ]
    return f"---\n{_front_matter(name, summary, spec, packaging)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(name: str, summary: dict[str, Any], spec: ModelSpec, packaging: Packaging) -> str:
    results = [
        huggingface_hub.EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=text.one_line(domain),  # results of equal types would become one
            dataset_name=text.one_line(domain),
            metric_type=kind,
            metric_name=f"{title}, {MEAN}" if domain == MEAN else title,
            metric_value=round(float(measured["after"][key]), 4),
        )
        for domain, measured in sorted(summary["domains"].items())
        for kind, key, title in MEASURED
    ]
    facts = huggingface_hub.ModelCardData(
        pipeline_tag="text-classification",
        library_name=packaging.library,
        tags=[*TAGS, *(["onnx"] if packaging.onnx else [])],
        base_model=hub_id(spec.name),
        metrics=["accuracy", "f1"],
        model_name=name,
        eval_results=results or None,
    )
    yaml: str = facts.to_yaml()
    return yaml.strip()


def read_card(folder: Path) -> Any:
    """Read the card of a folder as the hub does; raises ValueError if its front matter is invalid."""
    return huggingface_hub.ModelCard.load(folder / CARD)
