"""Speed, shown by ratios side by side in one run; never by a timed test."""
