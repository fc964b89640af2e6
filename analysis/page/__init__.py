"""Markdown, sentences and figures, whatever they are about."""
