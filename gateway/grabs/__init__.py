"""The hot path: a grab from the bytes of its connection to its answer."""
