"""The package's ClientApp, as it stands: the owner's policy, ledger and redaction come with it."""

from knot_fed.client_app import app

__all__ = ["app"]
