"""Every libav call: readers, writers, joins, timestamps, sound and colour.

`reader`, `writer` and `join` are what others use. Modules whose names end in ``_child`` run in
child processes, where a hang or a crash of libav ends nothing else.
"""
