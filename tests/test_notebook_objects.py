"""What a notebook and a terminal show of the public objects: short, and from the object's own values."""

import glassworks as gw
from glassworks.edits import add_vector


def test_public_objects_are_short_as_text_and_show_themselves_in_a_notebook(smallworld):
    model, scope = gw.load_model(smallworld), gw.load_scope("smallworld")
    graph = gw.trace(model, scope, "The capital of the state containing Dallas is")
    edit = add_vector("resid_post.1", [1.0] * model.d_model)
    for thing, words in ((model, "d_model"), (scope, "coders"), (graph, "strongest paths"), (edit, "resid_post.1")):
        assert len(str(thing).splitlines()) <= 20
        assert len(str(thing)) < 4_000
        assert words in thing._repr_html_()
        assert len(thing._repr_html_()) < 20_000
