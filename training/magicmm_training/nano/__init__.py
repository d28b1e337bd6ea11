"""Training of the built-in model: distillation from its concept bank on made-up feature maps (issue 8)."""
