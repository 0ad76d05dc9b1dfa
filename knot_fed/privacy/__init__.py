"""What may leave a client, and under which guarantee."""
