"""Frames a second of a film end to end, of its decoding and of its network alone, in turns.

python benchmarks/video.py runs/fcn [BACKEND]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from fcn_deploy.data.pipeline import Unreadable, decoded_ahead, lookahead, picture_threads
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.predict.video.decode import Film
from fcn_deploy.predict.video.job import FilmJob
from fcn_deploy.predict.video.names import films_of
from fcn_deploy.runners.base import Runner, open_runner

FRAMES, ROUNDS, SIZE = 40, 3, (360, 480)


def write_film(path: Path) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = SIZE
        for number in range(FRAMES):
            image, _ = draw_scene(0, number, SIZE)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode(None))


def images(path: Path) -> Iterator[NDArray[np.uint8]]:
    with Film(str(path), path.name) as film, picture_threads() as pool:
        for frame in decoded_ahead(film.frames(), pool, lookahead(1)):
            assert not isinstance(frame, Unreadable)
            yield frame.image


def film_job(path: Path, runner: Runner) -> None:
    with tempfile.TemporaryDirectory() as out:
        with FilmJob(films_of([str(path)]), Path(out)) as job:
            job.begin(runner)
            (done,) = job.predictions(runner)
        assert (done.error, done.broken) == (None, 0)


def main(run: str, backend: str = "ort") -> None:
    with tempfile.TemporaryDirectory() as folder, open_runner(run, backend) as runner:
        path = Path(folder) / "film.mp4"
        write_film(path)
        held = [image[None] for image in images(path)]
        for _ in runner.stream(held[:5]):  # what is prepared once
            pass
        cases: dict[str, Callable[[], object]] = {
            "decode": lambda: sum(1 for _ in images(path)),
            "compute": lambda: sum(1 for _ in runner.stream(held)),
            "film": lambda: film_job(path, runner),
        }
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for _, (name, do) in itertools.product(range(ROUNDS), cases.items()):
            begun = time.perf_counter()
            do()
            rates[name].append(FRAMES / (time.perf_counter() - begun))
    rounds = zip(*rates.values(), strict=True)
    shares = [film / min(decode, compute) for decode, compute, film in rounds]
    for name, values in {**rates, "film over the slower": shares}.items():
        print(f"{name}: {statistics.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
