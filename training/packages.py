"""Fetch the packages that hold the drawings and their names.

Uses the ordinary clients (`npm pack`, `apt-get download`, `dpkg`) and nothing else; what is already unpacked stays.
"""

from __future__ import annotations

import logging
import subprocess
import tarfile
from pathlib import Path

logger = logging.getLogger(__name__)

NPM_PACKAGES = (
    "@twemoji/svg@15.0.0",
    "fluentui-emoji@1.3.0",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/fxemoji@1.2.2",
    "@iconify-json/streamline-emojis@1.2.4",
    "@iconify-json/mdi@1.2.3",
    "@iconify-json/fa6-solid@1.2.4",
    "@iconify-json/game-icons@1.2.4",
    "@iconify-json/icon-park@1.2.4",
    "@iconify-json/streamline-plump-color@1.2.2",
    "@iconify-json/streamline-flex-color@1.2.2",
    "@iconify-json/streamline-sharp-color@1.2.2",
    "@iconify-json/streamline-cyber-color@1.2.2",
    "@iconify-json/ph@1.2.2",
    "@iconify-json/tabler@1.2.41",
    "@iconify-json/mingcute@1.2.8",
    "@iconify-json/pinhead@1.2.28",
    "@iconify-json/whh@1.2.0",
    "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "@iconify-json/emojione-monotone@1.2.1",
    "@iconify-json/healthicons@1.2.13",
    "@iconify-json/hugeicons@1.2.35",
    "@iconify-json/lucide@1.2.137",
    "@iconify-json/la@1.2.1",
    "@iconify-json/dinkie-icons@1.2.0",
    "@iconify-json/picon@1.2.0",
    "@iconify-json/boxicons@1.2.0",
    "@iconify-json/griddy-icons@1.2.0",
    "@iconify-json/iconoir@1.2.11",
    "@iconify-json/carbon@1.2.29",
    "@iconify-json/ion@1.2.7",
    "@iconify-json/streamline-kameleon-color@1.2.2",
    "@iconify-json/fontisto@1.2.1",
    "@iconify-json/streamline-color@1.2.2",
    "@iconify-json/pixelarticons@1.2.9",
    "@iconify-json/lineicons@1.2.6",
    "@iconify-json/lucide-lab@1.2.3",
    "@iconify-json/guidance@1.2.2",
    "@iconify-json/ri@1.2.10",
    "@iconify-json/tdesign@1.2.19",
    "@iconify-json/bxs@1.2.3",
    "emojibase-data@17.0.0",
)
TUNING_PACKAGES = ("@iconify-json/openmoji@1.2.29", "@iconify-json/noto-v1@1.2.5")  # neither trained on nor held out
NOTO_PACKAGE, CLIP_ART_PACKAGE = "fonts-noto-color-emoji", "openclipart-svg"
DEBIAN_VERSIONS = {NOTO_PACKAGE: "2.042", CLIP_ART_PACKAGE: "0.18"}  # held-out drawings; other ones are another test


def package_folder(work: Path, package: str) -> Path:
    """Say where a package lies once unpacked; `package` is its npm name, with or without a version."""
    name = package[: package.rindex("@")] if "@" in package[1:] else package
    return work / "packages" / name.replace("@", "").replace("/", "-")


def fetch_packages(work: Path) -> None:
    """Download and unpack everything that is not there yet.

    Raises:
        subprocess.CalledProcessError: a client failed; its own message says why.
        RuntimeError: the Debian package is of another version.
    """
    for package in (*NPM_PACKAGES, *TUNING_PACKAGES):
        folder = package_folder(work, package)
        if not folder.exists():
            _fetch_npm(package, folder)
    for package, version in DEBIAN_VERSIONS.items():
        folder = package_folder(work, package)
        if not folder.exists():
            _fetch_debian(package, version, folder)


def noto_font(work: Path) -> Path:
    """Find the font file of the held-out drawing."""
    return next(package_folder(work, NOTO_PACKAGE).rglob("NotoColorEmoji.ttf"))


def _fetch_npm(package: str, folder: Path) -> None:
    logger.info("fetching %s", package)
    downloads = folder.parent / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--silent", package],
        cwd=downloads,
        check=True,
        capture_output=True,
        text=True,
    )
    partial = folder.with_name(folder.name + ".partial")
    with tarfile.open(downloads / packed.stdout.split()[-1]) as archive:
        archive.extractall(partial, filter="data")
    (partial / "package").rename(folder)
    partial.rmdir()


def _fetch_debian(package: str, version: str, folder: Path) -> None:
    logger.info("fetching %s", package)
    downloads = folder.parent / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", package], cwd=downloads, check=True)
    archives = sorted([*downloads.glob(f"{package}_{version}*.deb"), *downloads.glob(f"{package}_*%3a{version}*.deb")])
    if not archives:
        raise RuntimeError(f"Expected version {version} of {package}, but apt-get has another one.")
    partial = folder.with_name(folder.name + ".partial")
    subprocess.run(["dpkg", "-x", str(archives[0]), str(partial)], check=True)
    partial.rename(folder)
