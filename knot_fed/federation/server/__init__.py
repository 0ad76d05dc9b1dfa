"""The server's side: its clients, the collection of answers, distillation, and the summary of a run."""
