"""What data and loop cost at any size, a module for each part; ``benchmarks/scale.py`` runs them."""
