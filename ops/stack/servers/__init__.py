"""The stores that `seckill up` runs privately, or takes as given."""
