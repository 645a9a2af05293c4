"""Data in, named numbers out."""
