"""How old a frame is when it comes out of the live path: from a stamp in its pixels to the sink.

`clock_code.py` is the stamp, `clock.py` and `clock_sender.py` a source whose frames carry it,
`taking.py` the sink that reads it, `measure.py` puts them around a session as `live` runs it.
"""
