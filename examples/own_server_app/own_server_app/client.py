"""The package's unchanged ClientApp, with the owner's policy, ledger and redaction."""

from knot_fed.client_app import app

__all__ = ["app"]
