"""Bring your own dual encoder: a CLIP or SigLIP checkpoint becomes a bundle (`export_dual_encoder`)."""

from importlib.metadata import PackageNotFoundError, distribution


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


# By distribution, because `optimum` without `optimum-onnx` can be imported and has no exporter.
_missing = [name for name in ("onnx", "optimum-onnx", "torch", "transformers") if not _is_installed(name)]
if _missing:
    raise ImportError(f"Exporting a dual encoder needs {', '.join(_missing)}. Run: pip install 'magicmm[export]'")

from magicmm_export.dual.export import export_dual_encoder  # noqa: E402  (not before the check)

__all__ = ["export_dual_encoder"]
