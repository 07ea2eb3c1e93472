"""Surfaces of raymeta that take what strangers give: arguments, commands, files."""
