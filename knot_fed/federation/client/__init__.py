"""The client's side: its settings, its releases, and the guards around its handlers."""
