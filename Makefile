# The scripts do the work; this file remembers their names.
.PHONY: demo test lint api bench

demo:
	sh scripts/demo

test:
	sh scripts/test

lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

api:
	.venv/bin/python scripts/generate_api.py

bench:
	sh scripts/bench start && sh scripts/bench unpack && sh scripts/bench memory
