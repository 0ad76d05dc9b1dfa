"""Upload of an exported folder to the hub; every failure is told in one sentence."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from knot_fed.errors import ConfigError, KnotError
from knot_fed.models.huggingface.lazily import huggingface_hub

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
LOG_IN = "log in with hf auth login, or set HF_TOKEN to a token that may write"
FORBIDDEN = (401, 403)


class UploadError(KnotError):
    """An upload that the hub refuses, or that does not reach it."""


def check_repo(name: str) -> None:
    """Raise `ConfigError` if a name is not OWNER/NAME, and `UploadError` if there is no token."""
    if not REPO.fullmatch(name):
        raise ConfigError(f"--push-to-hub {name!r} is not of the form OWNER/NAME; give both parts")
    if not huggingface_hub.get_token():
        raise UploadError(f"--push-to-hub {name}: no token for the hub; {LOG_IN}")


def push_folder(folder: Path, name: str, *, private: bool) -> str:
    """Create a model repository if there is none, and upload a folder as one commit; return its address.

    Raises
    ------
    UploadError
        If the hub refuses it, or cannot be reached; the folder stays.
    """
    with _told(name, folder):
        hub = huggingface_hub.HfApi()
        hub.create_repo(name, repo_type="model", private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload a student exported by knot_fed"
        )
    return str(commit.repo_url)


@contextmanager
def _told(name: str, folder: Path) -> Iterator[None]:
    kept = f"the export stays in {folder}"
    try:
        yield
    except huggingface_hub.errors.OfflineModeIsEnabled:
        raise UploadError(f"{name}: HF_HUB_OFFLINE is set, so nothing is uploaded; unset it ({kept})") from None
    except huggingface_hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        remedy = LOG_IN if status in FORBIDDEN else "try again later, or with another name"
        raise UploadError(f"{name}: the hub refused the upload (HTTP {status}); {remedy} ({kept})") from None
    except (httpx.HTTPError, OSError) as error:
        place = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise UploadError(
            f"{name}: {place} cannot be reached ({type(error).__name__}); check the network ({kept})"
        ) from None
