"""The client's ledger of releases."""
