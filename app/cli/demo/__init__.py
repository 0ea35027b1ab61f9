"""The demo: a real server, a webhook receiver and a mailbox on this machine, and the events of a day through them."""
