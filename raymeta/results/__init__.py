"""Results: the one door to the disk, and its mirror on an object store."""
