"""Overrides of torch's functions and layers while a module trains."""
