"""Autograd: stopped gradients and hooks, double backward, surrogate gradients."""
