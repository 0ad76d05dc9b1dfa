"""A distillation step of a transformer with random parameters, on a device and in a precision, and the loss's share."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_loss import forward_and_backward, microseconds
from benchmarks.problems import make_problem
from knot_fed.config import RunConfig
from knot_fed.models import ModelSpec, build_classifier, device_of, send, use_device
from knot_fed.training.fitting import Schedule, fit_all_epochs
from knot_fed.transport import OTLoss

TEACHERS, LABELS, VOCABULARY = 4, 5, 30_000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ORDINARY = "the house is good la casa es buena das haus ist gut"
"""Words that a tokenizer must know to be accepted."""
NAMES = ("a", "b", "c", "d", "e")


def write_student(folder, layers, width, *, vocabulary=VOCABULARY):
    """Write a BERT with random parameters and a tokenizer of made-up words, as a user stores a pretrained one."""
    import tokenizers
    import transformers

    words = [*SPECIAL, *dict.fromkeys(ORDINARY.split())]
    words += [f"w{number}" for number in range(vocabulary - len(words))]
    wordpiece = tokenizers.BertWordPieceTokenizer({word: place for place, word in enumerate(words)})
    roles = {f"{word.strip('[]').lower()}_token": word for word in SPECIAL}
    transformers.PreTrainedTokenizerFast(tokenizer_object=wordpiece._tokenizer, **roles).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width, num_labels=LABELS, id2label=dict(enumerate(NAMES)),
        label2id={name: place for place, name in enumerate(NAMES)},
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return f"hf:{folder}"


def distillation_step(times, layers, width, *, precision, compiled=False):
    """Time whole epochs of training as a run does them: batches made ahead, the loss, AdamW; median of epochs."""
    small = times.device.type == "cpu"
    batch, length, steps = (16, 16, 3) if small else (128, 64, 20)
    use_device(RunConfig(device=times.device.type, precision=precision, compile=compiled))
    with tempfile.TemporaryDirectory() as folder:
        name = write_student(Path(folder), layers, width, vocabulary=500 if small else VOCABULARY)
        student = build_classifier(ModelSpec(name, "all", NAMES, False, length), seed=1)
    generator = np.random.default_rng(1)
    numbers = generator.integers(400 if small else VOCABULARY - 100, size=(batch * steps, length))
    items = student.encode([" ".join(f"w{number}" for number in row) for row in numbers])
    problem = make_problem(batch * steps, LABELS, TEACHERS).to(device_of(student))
    loss = OTLoss(problem.ground_cost)

    def batch_loss(logits, rows):
        chosen = send(torch.from_numpy(rows), logits.device)
        return loss(logits, problem.soft_labels[chosen], problem.weights[chosen])

    epochs = _epochs(student, items, batch_loss, Schedule(1, 1, batch, 1e-5), count=4)
    step = statistics.median(epochs[1:]) / steps
    alone = times.median(forward_and_backward(loss, make_problem(batch, LABELS, TEACHERS).to(times.device)))
    row = {
        "layers": layers, "width": width, "precision": precision, "batch": batch, "tokens": length,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "step_ms": round(1e3 * step, 3), "texts_per_second": round(batch / step), "loss_us": microseconds(alone),
        "share_of_loss": round(alone / step, 5), "first_epoch_seconds": round(epochs[0], 2),
    }  # fmt: skip
    if not small:
        row["peak_GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        torch.cuda.reset_peak_memory_stats()
    return row


def _epochs(student, items, batch_loss, schedule, *, count):
    """Return the seconds of single epochs; reading their mean loss waits for the device."""
    taken = []
    for seed in range(count):
        started = time.perf_counter()
        fit_all_epochs(student, items, batch_loss, schedule, seed=seed)
        taken.append(time.perf_counter() - started)
    return taken
