"""Backends of `broadcaster.Broadcast` that survive a lost connection; `app.events.doorbell` uses them."""
