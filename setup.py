"""What pyproject.toml cannot say: configs/ lies at the top, and is a package in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lightning_adls*"]), "lightning_adls.configs"],
    package_dir={"lightning_adls.configs": "configs"},
)
