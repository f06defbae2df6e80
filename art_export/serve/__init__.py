"""A bundle behind an OpenAI-compatible HTTP API: one process, one engine, many pictures.

A request names a stored picture as its `model`. Requests under way share one batch, whatever their
pictures; they join and leave it between tokens.
"""
