"""Who our partners are: certificates, connections, and the parties on both sides (chapters 1 and 2.01)."""
