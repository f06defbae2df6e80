"""From a model's parts to ONNX graphs that share one file of weights."""
