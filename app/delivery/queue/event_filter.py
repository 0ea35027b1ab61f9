"""Which events a destination asked for: dotted names, or wildcards such as `meter.*` and `*`."""

from collections.abc import Sequence


def takes_type(patterns: Sequence[str] | None, event_type: str) -> bool:
    """Whether an event of this dotted type matches; None takes all, an empty list nothing."""
    return patterns is None or any(_fits(pattern, event_type) for pattern in patterns)


def _fits(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return True
    # "meter.*" means "meter.created" and not "meter_data.received": the dot counts.
    return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else pattern == event_type
