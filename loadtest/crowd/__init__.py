"""The open-loop crowd: its schedule, its generator and its report."""
