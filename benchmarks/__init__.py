"""How fast the engine is, beside its yardsticks: ``make bench``."""
