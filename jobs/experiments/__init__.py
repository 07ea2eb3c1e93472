"""The table of all tasks, and the scaling of learned datasets."""
