"""What replaces functions of torch while a module trains."""
