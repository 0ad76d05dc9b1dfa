"""Personal models: a client's own examples and the consensus, distilled together and kept on the client's machine."""
