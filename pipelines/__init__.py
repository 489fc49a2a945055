"""What happens to the data: sources, checks, features, the market, evaluation and the report."""
