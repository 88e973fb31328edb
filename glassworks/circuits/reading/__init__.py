"""Reading a graph: its paths, groups, story, and the least that is enough."""
