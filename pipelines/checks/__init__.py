"""What must be true of the data before anybody learns from it."""
