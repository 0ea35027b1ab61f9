"""Values that meters send for "no value", which are never readings."""

from typing import Final

from app.core.decimals import to_micro

SENTINELS: Final = frozenset(
    map(
        to_micro,
        (
            "4294967.295", "2147483.647", "16777.215", "8590.017", "8590.041", "34364.271", "4295.103",
            "4295.084",
            "8590.119", "8590.063", "8591.484", "8590.421", "38655.37", "186227.0865",
        ),
    )
)  # fmt: skip
"""In millionths of the meter's own unit."""
LOWEST_SENTINEL: Final = min(SENTINELS)
