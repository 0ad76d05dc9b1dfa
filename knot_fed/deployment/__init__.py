"""What a federation on real machines needs beside the app: credentials, and commands of operators and owners."""
