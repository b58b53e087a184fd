-- Leading zero bits of the work that a buyer does before a ticket; 0 asks for none. Why at most 26:
-- seckill/proofs.py.
ALTER TABLE sales ADD COLUMN IF NOT EXISTS
  proof_bits integer NOT NULL DEFAULT 0 CHECK (proof_bits BETWEEN 0 AND 26);
