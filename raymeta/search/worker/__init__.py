"""What runs on a worker: one trial, and what it leaves for the next."""
