"""From a model to an engine set: what is stale is exported, compiled and checked, and kept."""
