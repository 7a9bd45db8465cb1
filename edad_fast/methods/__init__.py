"""The systems of the papers: what is optimised, in which stages."""

from .stages import METHODS, Ingredients, build_stages

__all__ = ["METHODS", "Ingredients", "build_stages"]
