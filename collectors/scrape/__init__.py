"""Scraping: which targets there are, what they are asked, and what is taken of their answers."""
