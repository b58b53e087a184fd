"""The shared kernel; it knows neither aiohttp nor processes."""
