"""What one does with an artifact: look at it, verify it, predict with it, judge it, measure it, compare it."""
