"""Training of the papers' networks: losses and metrics. Each module is imported with its first use."""
