"""What an operator fears, played under load and held against the ledger."""
