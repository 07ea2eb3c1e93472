"""Figures from the frame of a run."""
