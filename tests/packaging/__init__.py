"""What is published: packages, metadata, workflows, and the bundle for Flower Hub."""
