"""What learns and what plans: families of agents over arrays and gymnasium spaces."""
