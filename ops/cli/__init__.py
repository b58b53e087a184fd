"""The `seckill` command: one file a group of commands."""
