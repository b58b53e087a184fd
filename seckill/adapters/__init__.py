"""The clients of Redis, PostgreSQL, RabbitMQ and HTTP, and the names used in them."""
