"""What the benchmark of peeling is made of."""
