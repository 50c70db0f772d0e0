"""What pyproject.toml cannot say: data/ is shipped inside the package, as ddpm_lesson/_bundled."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ddpm_lesson*"]), "ddpm_lesson._bundled"],
    package_dir={"ddpm_lesson._bundled": "data"},
    package_data={"ddpm_lesson._bundled": ["**/*"]},
)
