"""The live view: a camera with boxes and measured rates, in a notebook or a browser page."""
