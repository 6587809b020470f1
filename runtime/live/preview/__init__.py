"""The browser preview: the newest frames on a page, metrics and health beside it."""
