"""Logs of a process.

Log lines are structured, one for each occurrence, and carry ids only: never a secret, a token, a link or personal
data. On a terminal they are readable text, elsewhere JSON.
"""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from app.core.outages import OutageFilter


def configure_logs() -> None:
    """Sends log lines from INFO up to stderr, those of libraries as well."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Tracebacks omit the values of local variables, which may be secrets.
    on_terminal = sys.stderr.isatty()
    rendering: list[structlog.typing.Processor]
    # There may be thousands of our own lines a second, so they are written as bytes.
    ours: list[structlog.typing.Processor]
    factory: structlog.PrintLoggerFactory | structlog.BytesLoggerFactory
    if on_terminal:
        ours = rendering = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    else:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        ours = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *ours],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(OutageFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for chatty in ("httpx", "aiosqlite", "alembic", "websockets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _json(values: Any, default: Callable[[Any], Any]) -> bytes:
    try:
        return orjson.dumps(values, default)
    except TypeError:
        # orjson refuses text with lone surrogates, such as a file name may have; the line is logged all the same.
        return json.dumps(values, default=default).encode()
