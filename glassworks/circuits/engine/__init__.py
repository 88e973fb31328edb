"""The engine: a frozen model of one prompt, swept backwards for the edges into every target.

It gives matrices of numbers; what a node means is decided above.
"""
