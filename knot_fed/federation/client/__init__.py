"""The client's side: its settings, what it releases, and the guards around its handlers."""
