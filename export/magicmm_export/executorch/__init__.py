"""InternVL3 checkpoints to ExecuTorch: one program with a method for each part and length, over the same weights."""
