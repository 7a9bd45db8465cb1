"""The systems of the papers: what is optimised, in which stages."""

from .run import run
from .stages import METHODS, Ingredients, build_stages

__all__ = ["METHODS", "Ingredients", "build_stages", "run"]
