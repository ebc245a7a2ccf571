"""What is claimed about speed: one module a claim, each a ratio of two times measured in one run."""
