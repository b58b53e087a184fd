# Every target is a script in scripts/: where make is missing, `sh scripts/<target>` is the same.
.DEFAULT_GOAL := help
.PHONY: help setup demo test run check docs-check bench locust fuzz fmt

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## Make .venv and get Redis, RabbitMQ and PostgreSQL
	@sh scripts/setup

demo: ## Run a flash sale from start to ledger, in about a minute
	@sh scripts/demo

test: ## Run the whole test suite
	@sh scripts/test

run: ## Run everything in the foreground, with lines to paste
	@sh scripts/run

check: ## Check format, lint, types and unit tests
	@sh scripts/check

docs-check: ## Run every command of README and docs on a private stack
	@sh scripts/docs-check

bench: ## Measure the performance
	@sh scripts/bench

locust: ## Send a crowd of locust's to a sale, and check the ledger
	@sh scripts/locust

fmt: ## Format the code
	@sh scripts/fmt

fuzz: ## Compare random conversations with two gateways, for ten minutes
	@sh scripts/fuzz
