"""Federated distillation with optimal transport: private teachers, shared soft labels, one student."""
