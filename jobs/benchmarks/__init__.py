"""Benchmarks of hypergradients, of meta-training, and of what a cluster costs."""
