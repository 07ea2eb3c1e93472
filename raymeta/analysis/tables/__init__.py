"""Tables from the frame of a run."""
