"""The installed version; ``prodpool.__version__`` is it."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("prodpool")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "unknown"
