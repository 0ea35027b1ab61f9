"""Voltwire itself, under a server that offers it no transport: with nothing but what ASGI says."""

from app.core.settings import Settings
from app.server.main import create_app
from app.server.process import Process

app = create_app(Process(Settings(), public_url="http://127.0.0.1", with_worker=True))
