"""Voltwire: the event backbone of a smart-meter data platform."""

__version__ = "0.1.0"
