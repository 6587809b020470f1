"""The browser preview: a page that shows the newest frames, with metrics and health."""
