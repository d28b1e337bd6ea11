"""InternVL3 checkpoints to ONNX: fused graphs written tensor by tensor, weights quantised on the way."""
