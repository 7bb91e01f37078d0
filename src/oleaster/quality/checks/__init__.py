"""The checks of a data set; importing this package registers them all."""

from oleaster.quality.checks import languages, lengths, parts, privacy, repeats, templates, texts

__all__ = ["languages", "lengths", "parts", "privacy", "repeats", "templates", "texts"]
