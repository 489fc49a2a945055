"""The market an agent trades in: one account, its environments, markets whose optimum is known."""
