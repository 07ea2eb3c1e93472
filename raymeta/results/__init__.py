"""What a run leaves on disk, and the mirror of it on an object store."""
