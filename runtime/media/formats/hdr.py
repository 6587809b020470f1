"""HDR's mastering metadata in the words of the encoders that write it."""

from __future__ import annotations

from collections.abc import Mapping

from ..frames.mastering import Mastering

_PARAMETERS = {"libx265": "x265-params", "libsvtav1": "svtav1-params"}


def writes_mastering(encoder: str) -> bool:
    """Whether the encoder can be told of it."""
    return encoder in _PARAMETERS


def with_mastering(
    encoder: str, options: Mapping[str, str], mastering: Mastering | None
) -> dict[str, str]:
    """The encoder's options with the metadata among its parameters, where it has words for it."""
    if mastering is None or not writes_mastering(encoder):
        return dict(options)
    told = _of_x265(mastering) if encoder == "libx265" else _of_svtav1(mastering)
    name = _PARAMETERS[encoder]
    return {**options, name: ":".join([*filter(None, [options.get(name)]), *told])}


def _of_x265(mastering: Mastering) -> list[str]:
    told = []
    if mastering.display:
        # In steps of 0.00002, and of 0.0001 cd/m2.
        steps = [round(50_000 * value) for value in mastering.display[:8]]
        least, greatest = (round(10_000 * value) for value in mastering.display[8:])
        told.append("master-display=" + _written(steps, greatest, least))
    if mastering.light:
        told.append("max-cll={},{}".format(*mastering.light))
    return told


def _of_svtav1(mastering: Mastering) -> list[str]:
    told = []
    if mastering.display:
        exact = [f"{value:.6f}" for value in mastering.display]
        told.append("mastering-display=" + _written(exact[:8], exact[9], exact[8]))
    if mastering.light:
        told.append("content-light={},{}".format(*mastering.light))
    return told


def _written(chromaticities: list[int] | list[str], greatest: object, least: object) -> str:
    rx, ry, gx, gy, bx, by, wx, wy = chromaticities
    return f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({greatest},{least})"
