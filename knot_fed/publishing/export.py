"""A run's student as a whole transformers folder: written beside, compared with the student, then renamed."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from knot_fed.data.reviews import builtin_texts
from knot_fed.errors import ModelError, RunFolderError, writing_failed
from knot_fed.files import replace_folder
from knot_fed.models import TextClassifier, load_classifier, pipeline_probabilities, write_portable
from knot_fed.publishing.card import CARD, Packaging, model_card, write_run_card
from knot_fed.publishing.onnx_model import ONNX_FILE, OPSET, check_onnx_extra, onnx_probabilities, write_onnx
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import Text

MARKER = "knot_fed_export.json"
"""In an exported folder: what wrote it and its files, so that only they are ever replaced."""
TOLERANCE, ONNX_TOLERANCE, BATCHED_TOLERANCE = 1e-6, 1e-5, 1e-4
"""Largest differences of a probability between the student and its export: of one text alone, of one text by ONNX, and
in a batch, whose padding changes the rounding of float32 in the student too."""
SAMPLES, BATCH = 24, 8


@dataclass(frozen=True, slots=True)
class Exported:
    """The code that transformers must run, and the largest differences from the student on the samples."""

    code: list[str]
    difference: float
    onnx_difference: float | None


def export_student(run: RunFolder, folder: Path, *, onnx: bool = False, place: str = "") -> Exported:
    """Write a run's student into a folder, whole, and rewrite the model card in the run folder.

    Parameters
    ----------
    run
        A finished run.
    folder
        A new or empty folder, or an earlier export, which is replaced.
    onnx
        Also write `model.onnx`; needs the extra `onnx`.
    place
        What the example in the card loads; empty: the folder's name.

    Raises
    ------
    RunFolderError
        If the run failed, the folder contains anything else, or it cannot be written.
    ModelError
        If the student has no such form, or its export gives other probabilities.
    """
    if error := run.read_summary()["error"]:
        raise RunFolderError(f"{run.path}: the run failed, so its student is not whole ({error}); start it again")
    check_target(folder)
    if onnx:
        check_onnx_extra()
    student = load_classifier(run.student)
    found: list[Exported] = []
    try:
        replace_folder(
            folder, lambda draft: found.append(_write(run, student, draft, onnx, place or folder.resolve().name))
        )
    except (OSError, SafetensorError) as error:
        reason = writing_failed(error) if isinstance(error, OSError) else f"{error}; make room on the disk"
        raise RunFolderError(f"{folder}: the export cannot be written: {reason}") from None
    write_run_card(run)
    return found[0]


def check_target(folder: Path) -> None:
    """Raise `RunFolderError` if a folder contains anything but an earlier export."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a new folder for the export")
    names = {str(file.relative_to(folder)) for file in folder.rglob("*")}
    if not names:
        return
    try:
        written = set(json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(f"{folder}: is not empty, and not an earlier export; give a new folder") from None
    if foreign := sorted(names - written - {MARKER}):
        raise RunFolderError(
            f"{folder}: contains {foreign[0]}, which no export wrote; move it away, or give a new folder"
        )


def sample_texts(*, paired: bool) -> list[Text]:
    """Return texts of many lengths and scripts, one longer than any model reads, and one with special tokens."""
    reviews = builtin_texts("forum")[:SAMPLES]
    odd = ["x", "a [SEP] b </s> [PAD] <pad> <s>", "这个房子很好 🙂 дом", " ".join(builtin_texts("forum")[:400])]
    texts = [*map(str, reviews), *odd]
    return list(zip(texts, [*texts[5:], *texts[:5]], strict=True)) if paired else list(texts)


def _write(run: RunFolder, student: TextClassifier, draft: Path, onnx: bool, place: str) -> Exported:
    code = write_portable(student, draft)
    texts = sample_texts(paired=student.spec.paired)
    expected = np.concatenate([predict_soft_labels(student, [text]) for text in texts])
    found = _compared(partial(pipeline_probabilities, draft, texts), expected, "the pipeline", TOLERANCE)
    onnx_found = None
    if onnx:
        write_onnx(draft, texts[0])
        onnx_found = _compared(partial(onnx_probabilities, draft, texts), expected, ONNX_FILE, ONNX_TOLERANCE)
    packaging = Packaging("transformers", place, code, OPSET if onnx else 0)
    (draft / CARD).write_text(model_card(run, packaging), encoding="utf-8")
    _write_marker(draft, code, found)
    return Exported(code, found, onnx_found)


def _compared(answer: Callable[..., np.ndarray], expected: np.ndarray, what: str, most: float) -> float:
    """Return the largest difference, each text alone; raise ModelError if it, or that in batches, is too large."""
    try:
        difference, batched = (float(np.abs(answer(batch_size=size) - expected).max()) for size in (1, BATCH))
    except Exception as error:
        raise ModelError(
            f"{what} cannot run the exported student ({type(error).__name__}); load it with knot_fed.load_student"
        ) from error
    if not (difference <= most and batched <= BATCHED_TOLERANCE):
        raise ModelError(
            f"{what} gives other probabilities than the student (by up to {difference:.2g} for one text, more than"
            f" {most:g}, or {batched:.2g} in batches); load it with knot_fed.load_student"
        )
    return difference


def _write_marker(draft: Path, code: list[str], difference: float) -> None:
    files = sorted(str(file.relative_to(draft)) for file in draft.rglob("*"))
    facts = {"knot-fed": version("knot-fed"), "code": code, "files": files, "largest_difference": difference}
    (draft / MARKER).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
