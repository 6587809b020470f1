"""Every libav call: readers, writers, joins, timestamps, sound and colour.

Other packages use `reader`, `writer` and `join`. Modules whose names end in ``_child`` run in child
processes, so that a hang or a crash of libav ends nothing else.
"""
