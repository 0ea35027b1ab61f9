"""How long tests wait for what should come soon."""

from typing import Final

PATIENCE: Final = 240.0
"""Seconds until a wait gives up and says what it missed: no machine is that slow, and a test's bound is longer."""
