"""Attention, explained: which heads carry an edge, and what made them look."""
