"""How fast a fleet over Redis is: next to peers and to a hand-written loop, with more workers, and with a backlog."""
