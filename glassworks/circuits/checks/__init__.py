"""Checks: what a graph claims, held against the running model."""
