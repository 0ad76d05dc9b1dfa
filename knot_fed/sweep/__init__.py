"""Many runs over a grid and several seeds, compared in one table."""
