"""Networks as programs that run without this code, each checked against PyTorch."""
