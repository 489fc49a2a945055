"""Planners over functions: they learn nothing and know no family."""
