"""Errors of runs that are written for the reader."""


class RecipeError(ValueError):
    """A recipe, or a key given beside it, that cannot be used; the message names the key, the place and a way out."""
