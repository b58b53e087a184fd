"""Settings, and the config files of the services."""
