"""Once per machine: graphs to engines, behind one protocol, with a key, a manifest and a cache."""
