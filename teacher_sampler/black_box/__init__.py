"""Teachers of whose insides nothing is known: ONNX and torch.export programs, ready images."""
