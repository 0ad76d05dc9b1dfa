"""Record keys, dtypes, sizes and bounds of all messages."""
