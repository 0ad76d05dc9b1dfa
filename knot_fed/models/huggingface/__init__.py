"""Pretrained transformers models, whole or as frozen encoders under a small head."""
