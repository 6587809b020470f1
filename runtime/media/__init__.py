"""Every libav call: sources, sinks, timestamps, sound and colour.

`probe`, `source` and `sink` are what others use first. The rooms: `reading` (a file to frames),
`frames` (libav's frames as RGB, and back), `formats` (how an output is written), `segments` (frames
to finished pieces), `joining` (pieces to one output), `live` (sources and sinks that do not wait).
"""
