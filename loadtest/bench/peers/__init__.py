"""What the benchmark compares with."""
