"""The three private stores: each module prepares one and says how to run and to ask it."""
