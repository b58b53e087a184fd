"""How roles run: taking and merging messages, polling, retries, supervision."""
