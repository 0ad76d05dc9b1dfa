"""Pretrained transformers models, trained whole or as frozen encoders with a small head."""
