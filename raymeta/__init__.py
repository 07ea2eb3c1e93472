"""raymeta: hypergradients, meta-learning, and their comparison, on Ray."""
