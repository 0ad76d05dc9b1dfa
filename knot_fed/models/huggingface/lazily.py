"""transformers and the hub's client, imported when a model first needs them: most processes never do."""

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any


class LazyModule:
    """A module that is imported when its first attribute is read."""

    def __init__(self, load: Callable[[], ModuleType]) -> None:
        self._load = load

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._load(), attribute)


@cache
def _load_transformers() -> ModuleType:
    import transformers

    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers


@cache
def _load_hub() -> ModuleType:
    import huggingface_hub

    return huggingface_hub


transformers: Any = LazyModule(_load_transformers)
huggingface_hub: Any = LazyModule(_load_hub)
