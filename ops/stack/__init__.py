"""Everything on one machine: private stores, gateways and consumers."""
