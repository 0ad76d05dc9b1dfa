"""Many runs over a grid and several seeds: run, compared, and put in one table."""
