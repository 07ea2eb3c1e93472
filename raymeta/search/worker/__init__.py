"""Workers: running one trial, and what it leaves for the next."""
