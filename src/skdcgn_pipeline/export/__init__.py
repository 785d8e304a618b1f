"""Students and classifiers in forms that other programs read: safetensors, ONNX, `torch.export`, each with its card."""
