"""Settings of the project, and the config files of the services that it starts.

It promises that a bad value fails at start and names its variable, and that no other module reads
the environment. It relies on nothing of the project. Begin with `settings.py`; the rate limits are
in `limits.toml`.
"""
