"""The settings file beside `docker-compose.yml`."""

from collections.abc import Mapping
from pathlib import Path

from knot_fed.errors import CredentialsError


def add_settings(path: Path, settings: Mapping[str, str]) -> None:
    """Add the settings that the file does not have; what it has stays.

    Raises
    ------
    CredentialsError
        If the file cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        present = {line.partition("=")[0].strip() for line in text.splitlines()}
        missing = [f"{key}={value}\n" for key, value in settings.items() if key not in present]
        separator = "\n" if text and not text.endswith("\n") else ""
        if missing:
            path.touch(mode=0o644)
            path.write_text(text + separator + "".join(missing), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CredentialsError(f"{path}: cannot be read and written ({type(error).__name__}); mend it") from None
