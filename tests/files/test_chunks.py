"""Several processes make what one makes."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.onnxruntime_backend import THREADS
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.runtime.files import chunk_child
from streamdiffvsr.runtime.files import chunks as in_chunks
from streamdiffvsr.runtime.files.chunks import split, upscale_job_in_chunks
from streamdiffvsr.runtime.files.job import Job
from streamdiffvsr.runtime.files.journal import folder_of
from streamdiffvsr.runtime.files.upscale import (
    FileOptions,
    UpscaleReport,
    open_job,
    upscale_file,
)
from streamdiffvsr.runtime.processes import messages
from streamdiffvsr.runtime.upscaler import load
from streamdiffvsr.tests.files.films import film, pictures
from streamdiffvsr.tests.media.clips import see

CUTS = (26, 40, 52)
FRAMES = 70
OPTIONS = FileOptions(seed=5, preset="ultrafast")


def upscale_chunks(
    source: Path, output: Path, engines: Path, options: FileOptions, **how: Any
) -> UpscaleReport:
    job = open_job(source, output, options, read_manifest(engines).graphs.geometry.size)
    return upscale_job_in_chunks(job, engines, **how)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "in.mp4", FRAMES, CUTS)


@pytest.fixture(scope="module")
def whole(source: Path, parity_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    upscale_file(source, output, load(parity_engines), OPTIONS)
    return output


def job(source: Path, **options: object) -> Job:
    return Job.of(source, source.with_name("out.mp4"), FileOptions(**options))  # type: ignore[arg-type]


def test_parts_begin_at_cuts_and_cover_all(source: Path) -> None:
    for chunks, firsts in ((1, [0]), (2, [0, 26]), (3, [0, 26, 52]), (9, [0, 26, 52])):
        parts = split(job(source), chunks)
        # 40 begins no segment: the one before it is too short to end there.
        assert [part.first for part in parts] == firsts
        assert sum(part.frames or 0 for part in parts) == FRAMES
        assert [part.number for part in parts] == list(range(len(parts)))


def test_parts_end_where_the_job_does(source: Path) -> None:
    parts = split(job(source, max_frames=50), 2)
    assert [(part.first, part.frames) for part in parts] == [(0, 26), (26, 24)]


def test_every_process_opens_the_engines_on_the_device(
    source: Path, parity_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[Any] = []

    def child(module: str, order: Any, **_: object) -> None:
        orders.append(order)
        raise StreamDiffVSRError("no process here")

    monkeypatch.setattr(in_chunks, "Child", child)
    with pytest.raises(StreamDiffVSRError, match="no process here"):
        upscale_chunks(
            source, tmp_path / "out.mp4", parity_engines, OPTIONS, chunks=2, device="cuda:1"
        )
    opened: list[Any] = []

    def load_there(*arguments: object) -> None:
        opened.extend(arguments)
        raise StreamDiffVSRError("no engines here")

    monkeypatch.setattr(chunk_child, "load", load_there)
    monkeypatch.setattr(messages, "end_with_parent", lambda inbox: None)
    monkeypatch.setenv(THREADS, "1")
    with pytest.raises(StreamDiffVSRError, match="no engines here"):
        chunk_child.serve(orders[0], FileIO(os.devnull), FileIO(os.devnull, "w"))
    assert opened == [str(parity_engines), "cuda:1", (48, 64)]


@pytest.mark.slow
def test_chunks_are_one_run(source: Path, whole: Path, parity_engines: Path) -> None:
    output = whole.with_name("chunked.mp4")
    seen: list[int] = []
    before = set(psutil.Process().children(recursive=True))  # of other tests
    report = upscale_chunks(
        source,
        output,
        parity_engines,
        OPTIONS,
        chunks=3,
        progress=lambda done, _: seen.append(done),
    )
    assert (report.frames, report.cuts) == (FRAMES, 3)
    assert seen == sorted(seen) and seen[-1] == FRAMES
    assert pictures(output) == pictures(whole)
    assert see(output).sounds == see(whole).sounds
    assert not folder_of(output).exists()
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
def test_a_part_that_fails_ends_all_and_what_is_done_is_resumed(
    source: Path, whole: Path, parity_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = whole.with_name("killed.mp4")

    def kill_one(done: int, total: int | None) -> None:
        if done > 30:
            for child in psutil.Process().children():
                child.kill()

    with pytest.raises(StreamDiffVSRError, match="ended unexpectedly"):
        upscale_chunks(source, output, parity_engines, OPTIONS, chunks=2, progress=kill_one)
    assert not output.exists()
    options = FileOptions(seed=5, preset="ultrafast", resume=True)
    report = upscale_chunks(source, output, parity_engines, options, chunks=2)
    assert report.frames == FRAMES
    assert pictures(output) == pictures(whole)


@pytest.mark.slow
def test_without_cuts_there_is_one_part(tmp_path: Path) -> None:
    assert len(split(job(film(tmp_path / "in.mp4", 40, ())), 4)) == 1


def test_chunks_need_cuts(source: Path, tmp_path: Path, parity_engines: Path) -> None:
    options = FileOptions(scene_cuts=False)
    with pytest.raises(UsageError, match="chunks begin at scene cuts"):
        upscale_chunks(source, tmp_path / "out.mp4", parity_engines, options, chunks=2)
