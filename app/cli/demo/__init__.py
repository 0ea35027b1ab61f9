"""The demo: a real server, a webhook receiver and a mailbox on this machine, and every event through them."""
