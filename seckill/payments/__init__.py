"""Money: checkout, cards, wallets, refunds, fulfilment."""
