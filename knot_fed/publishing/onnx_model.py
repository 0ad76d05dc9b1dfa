"""An exported student as `model.onnx`, with any batch size and length, and its answers by ONNX Runtime."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax
from torch import nn

from knot_fed.errors import ModelError
from knot_fed.models import load_portable
from knot_fed.types import Text

ONNX_FILE = "model.onnx"
OPSET = 18
NEEDED = ("onnx", "onnxruntime")


class _Logits(nn.Module):
    """A model whose inputs are positional and whose output is a tensor."""

    def __init__(self, network: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def check_onnx_extra() -> None:
    """Raise `ModelError` if a package of the extra `onnx` is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"--onnx needs {', '.join(missing)}; install with pip install 'knot-fed[onnx]'")


def write_onnx(folder: Path, sample: Text) -> None:
    """Write `model.onnx` into an exported folder: inputs of the tokenizer, with names, to logits.

    Raises
    ------
    ModelError
        If torch cannot export the model.
    """
    network, tokenizer = load_portable(folder)
    read = _read(tokenizer, [sample, sample])
    names = list(read)
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    try:
        with _quiet():
            torch.onnx.export(
                _Logits(network, names).eval(), tuple(torch.from_numpy(read[name]) for name in names),
                str(folder / ONNX_FILE), input_names=names, output_names=["logits"], dynamic_axes=axes,
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip
    except Exception as error:
        raise ModelError(
            f"the student cannot be written as ONNX ({type(error).__name__}); export it without --onnx"
        ) from error


def onnx_probabilities(
    folder: Path, texts: Sequence[Text], *, batch_size: int = 8
) -> Float[np.ndarray, "examples classes"]:
    """Return the distributions that ONNX Runtime gives, in batches of unequal lengths."""
    import onnxruntime

    _, tokenizer = load_portable(folder)
    session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
    asked = [each.name for each in session.get_inputs()]  # inputs that change nothing are left out
    batches = (_read(tokenizer, texts[start : start + batch_size]) for start in range(0, len(texts), batch_size))
    parts = [session.run(["logits"], {name: batch[name] for name in asked})[0] for batch in batches]
    rows: Float[np.ndarray, "examples classes"] = softmax(np.concatenate(parts).astype(np.float64), axis=1)
    return rows


def _read(tokenizer: Any, texts: Sequence[Text]) -> dict[str, np.ndarray]:
    columns = [list(texts)] if isinstance(texts[0], str) else [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, padding=True, return_tensors="np")
    return {name: np.asarray(encoded[name], dtype=np.int64) for name in tokenizer.model_input_names}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which comments on each of its decisions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
