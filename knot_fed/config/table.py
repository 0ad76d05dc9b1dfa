"""The table of defaults in `pyproject.toml`; `python -m knot_fed.config.table` prints it from the schema."""

import json
from collections.abc import Iterator

from pydantic import BaseModel

from knot_fed.config.fields import kebab
from knot_fed.config.parsing import Scalar
from knot_fed.config.run import RunConfig

TITLE = "tool.flwr.app.config"


def defaults_table(title: str = TITLE) -> str:
    """Return all keys of a run's configuration as TOML: defaults, with descriptions as comments.

    With an empty title the keys are at the top level of a file.
    """
    return "\n".join(_lines(RunConfig(), title)) + "\n"


def _lines(section: BaseModel, title: str, comment: str = "") -> Iterator[str]:
    if title:
        yield f"[{title}]" + (f"  # {comment}" if comment else "")
    fields = type(section).model_fields
    values = {name: getattr(section, name) for name in fields}
    plain = {name: _toml(value) for name, value in values.items() if not isinstance(value, BaseModel)}
    width = min(max(len(kebab(name)) + 3 + len(text) for name, text in plain.items()), 24)
    for name, text in plain.items():
        setting, about = f"{kebab(name)} = {text}", fields[name].description
        yield f"{setting:<{width}}  # {about}" if about else setting
    for name, value in values.items():
        if isinstance(value, BaseModel):
            yield ""
            yield from _lines(value, f"{title}.{name}".strip("."), fields[name].description or "")


def _toml(value: Scalar) -> str:
    if isinstance(value, float) and "e" in repr(value):
        return repr(value).replace("e-0", "e-")
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    print(defaults_table(), end="")  # noqa: T201  (a command)
