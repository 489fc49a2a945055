"""Feature definitions and their scaling."""
