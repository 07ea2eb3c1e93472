"""Steps as graphs of operators: traced, split, compiled, and chained."""
