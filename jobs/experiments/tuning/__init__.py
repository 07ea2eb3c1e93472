"""Tasks on which the constants of descents are chosen, and how descents do there."""
