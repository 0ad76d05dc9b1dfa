"""Files of strangers, read strictly."""
