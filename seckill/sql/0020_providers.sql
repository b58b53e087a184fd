-- What a provider needs of a card payment beside its amount, and what it answers.
-- Cost: columns without a default write no row anew.
ALTER TABLE payments
  -- The provider's name for the buyer's card, and where the buyer comes back to from the bank. The
  -- charge may have to be sent again after the process that had them has died.
  ADD COLUMN card_token   text,
  ADD COLUMN return_url   text,
  -- Where the buyer has to go before the bank decides (3-D Secure).
  ADD COLUMN redirect_url text,
  -- The provider's word for why the bank declined.
  ADD COLUMN decline_code text;
