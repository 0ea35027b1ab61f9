"""The real services that tests run against: PostgreSQL, Valkey, a mail server, a webhook receiver, a browser.

Each is a plain class that works without pytest as well (the benchmarks use them); the fixtures are in
`tests/conftest.py`.
"""
