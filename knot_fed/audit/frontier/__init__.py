"""The price of privacy: sweeps and audits side by side."""
