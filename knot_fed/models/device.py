"""Where the models of this process compute, and in which precision: chosen once, for all of them."""

import logging
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError, ModelError

CPU = torch.device("cpu")

logger = logging.getLogger("knot_fed")


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, the types of autocast (None: float32), and whether transformers are compiled in training."""

    device: torch.device = CPU
    transformers: torch.dtype | None = None  # of those that are trained whole
    encoders: torch.dtype | None = None  # of frozen ones
    compiled: bool = False

    @property
    def described(self) -> str:
        """The device and the number format of transformers, in words."""
        on_gpu = self.device.type == "cuda"
        name = f"{torch.cuda.get_device_name(self.device)} (CUDA {torch.version.cuda})" if on_gpu else "CPU"
        threads = "" if on_gpu else f" ({platform.machine()}), {torch.get_num_threads()} torch thread(s)"
        half = f", transformers in {str(self.transformers).removeprefix('torch.')}" if self.transformers else ""
        return f"{name}{threads}{half}"


_chosen: Placement | None = None


def use_device(config: RunConfig, *, required: bool = False) -> None:
    """Place all models that this process builds from now on as `device`, `precision` and `compile` say.

    Parameters
    ----------
    config
        The run's configuration.
    required
        Whether `device = "cuda"` needs a GPU, as for the server; a client without one, or without a share of one,
        computes on its CPU.

    Raises
    ------
    ConfigError
        If there is no GPU and one is required.
    """
    global _chosen
    if required:
        check_device(config)
    _chosen = _placement(config)
    if required and config.compile and not _chosen.compiled:
        logger.info("compile = true has no effect: the server computes on a CPU")


def check_device(config: RunConfig) -> None:
    """Raise ConfigError if `device = "cuda"` and this process sees no GPU."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "run configuration: device = 'cuda', but torch sees no GPU here; use device = 'auto', or install a torch"
            " with CUDA and check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )


def placement() -> Placement:
    """Return what `use_device` chose; by default a GPU if there is one."""
    return _chosen or _placement(RunConfig())


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Return torch's autocast to a type, or for None a context that changes nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a small tensor to a device; to a GPU from pinned memory, so that nothing waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def memory_explained(name: str) -> Iterator[None]:
    """Raise ModelError with the remedies if a GPU's memory is full; `name` is the model's."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{name}: the GPU's memory is full; use a smaller distill.batch-size, teacher.batch-size or"
            " teacher.max-length, fewer clients on one GPU (a larger num_gpus), precision = 'bfloat16', or device ="
            " 'cpu'",
            refusal="the memory of this client's GPU is full; use smaller batches, or device = 'cpu'",
        ) from None


def _placement(config: RunConfig) -> Placement:
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    half = {"bfloat16": True, "float32": False, "auto": on_gpu and _has_bfloat16()}[config.precision]
    return Placement(
        device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else CPU,
        transformers=torch.bfloat16 if half else None,
        encoders=torch.bfloat16 if config.precision == "bfloat16" else None,
        compiled=config.compile and on_gpu,
    )


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
