"""The price of privacy: sweeps and audits joined in one table."""
