"""The server's side: the clients it knows, the strategy, and a run from its data to its summary."""
