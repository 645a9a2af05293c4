"""Records in, exhibits out."""
