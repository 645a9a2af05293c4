"""The paper's method, usable on its own: wrap, train, merge."""
