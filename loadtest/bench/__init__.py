"""The side-by-side benchmark of `make bench`."""
