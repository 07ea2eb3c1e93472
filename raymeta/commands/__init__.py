"""What each command of `raymeta` does: one file a command."""
