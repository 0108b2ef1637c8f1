"""From a recipe to a folder: train, evaluate, sweep."""
