"""Fetches of the feeds' due work in the worker, from the lease of a credential to the record of the readings."""
