"""Students for others: whole transformers folders, model cards, ONNX, and uploads to the hub."""
