"""Builds engine sets from models, and keeps them in the user's cache until they are out of date."""
