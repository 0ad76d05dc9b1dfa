"""The `.env` file beside `docker-compose.yml`."""

from collections.abc import Mapping
from pathlib import Path

from knot_fed.errors import CredentialsError


def add_settings(path: Path, settings: Mapping[str, str]) -> None:
    """Append the settings that the file lacks, and keep those that it has; raises CredentialsError if it cannot."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        present = {line.partition("=")[0].strip() for line in text.splitlines()}
        missing = [f"{key}={value}\n" for key, value in settings.items() if key not in present]
        separator = "\n" if text and not text.endswith("\n") else ""
        if missing:
            path.touch(mode=0o644)
            path.write_text(text + separator + "".join(missing), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CredentialsError(
            f"{path}: cannot be read or written ({type(error).__name__}); make it a text file that you may write"
        ) from None
