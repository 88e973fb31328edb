"""Recipes: how what the wheel carries was made, and what needs the hub; nothing here is installed."""
