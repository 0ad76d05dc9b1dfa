"""Attacks on what leaves a client, and audits of what is claimed; `attacks` has one function for each."""
