"""The built-in model: Magic-MM in miniature, one encoder that reads visual tokens and words together (issue 8).

EfficientNet-Lite2's map is halved like the vision tower's grid of the 2B model, a connector turns each cell into a
"soft word", and MiniLM reads these between [CLS] and [SEP], with adapters that are on only then.
"""
