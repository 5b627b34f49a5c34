"""Kill `car segment` over mixed pictures hard at random moments, go on, and compare with an undisturbed run.

`make survive` and `make survive-ray`, or with other numbers `python -m benchmarks.survival --pictures 300 --kills 20`.
The undisturbed run is always one of the local engine, so that Ray's results are held against it as well. Exits with 1
where anything was lost, done twice, or differs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SCENES = Path(__file__).parents[1] / "data" / "scenes" / "JPEGImages"
TEXTS = ("dog", "car", "tree", "cat", "banana")
FORMATS = "labels,masks,json,coco,yolo"


def make_pictures(folder: Path, count: int) -> None:
    """Make pictures: scenes, of which one in ten is broken, one in ten a duplicate, and one has 12 megapixels."""
    scenes = sorted(path for path in SCENES.rglob("*") if path.suffix in (".png", ".jpg"))
    for i in range(count):
        scene = scenes[i % len(scenes)]
        target = folder / f"part{i % 3}" / f"{i // 2:04d}{scene.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = scenes[0].read_bytes() if i % 10 == 1 else scene.read_bytes()
        target.write_bytes(content[: len(content) // 2] if i % 10 == 2 else content)
    with Image.open(scenes[0]) as image:
        image.convert("RGB").resize((4000, 3000)).save(folder / "large.jpg")


def command(pictures: Path, out: Path, engine: str) -> list[str]:
    """Write the command that is run again and again."""
    texts = [word for text in TEXTS for word in ("-t", text)]
    options = ["--preset", "tiny", "-f", FORMATS, "-o", str(out), "--engine", engine]
    return [sys.executable, "-m", "clip_as_rnn.apps.cli.main", "segment", str(pictures), *texts, *options]


def run_killed(again: list[str], out: Path, kills: int, whole_s: float) -> int:
    """Run a command, killing it so many times at random moments; return how often it was killed."""
    chance, killed = random.Random(0), 0
    while True:
        with Path(out.parent, "stderr").open("wb") as said:
            run = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=said)
        if killed == kills:
            run.wait()
            return killed
        started = _wait_for_line(out, run)
        try:
            run.wait(timeout=chance.uniform(0, whole_s / kills) if started else None)
            return killed
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            killed += 1


def _wait_for_line(out: Path, run: "subprocess.Popen[bytes]") -> bool:
    """Wait until the run has written to its record, so that loading is not all that is killed."""
    record = out / "results.jsonl"
    size = record.stat().st_size if record.exists() else 0
    while run.poll() is None:
        if record.exists() and record.stat().st_size > size:
            return True
        time.sleep(0.05)
    return False


def results(out: Path) -> dict[str, object]:
    """Collect what a run made, without times; of the record the last line of each picture."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name == "results.jsonl":
            found |= {f"line of {one['image']}": {**one, "seconds": 0} for one in _lines(path)}
        elif path.suffix == ".json" and path.parent == out and not path.stem.endswith("_labels"):
            found[name] = {**json.loads(path.read_text(encoding="utf-8")), "seconds": 0}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def _lines(path: Path) -> list[dict[str, object]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # torn off by a kill
            continue
        if "image" in content:
            lines.append(content)
    return lines


def main() -> None:
    """Print what was lost, done twice or different; exit with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", default="local", help="what is killed: local or ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pictures, whole, killed = (Path(place, name) for name in ("pictures", "whole", "killed"))
        make_pictures(pictures, arguments.pictures)
        started = time.perf_counter()
        undisturbed = command(pictures, whole, "local")
        subprocess.run(undisturbed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        whole_s = time.perf_counter() - started
        again_s = -time.perf_counter()
        kills = run_killed(command(pictures, killed, arguments.engine), killed, arguments.kills, whole_s)
        again_s += time.perf_counter()
        expected, got = results(whole), results(killed)
        done = [str(line["image"]) for line in _lines(killed / "results.jsonl") if "outputs" in line]
        differing = sorted(name for name in {*expected, *got} if expected.get(name) != got.get(name))
        twice = len(done) - len(set(done))
        stderr = Path(place, "stderr").read_text(encoding="utf-8", errors="replace")
        count = int(np.sum([name.startswith("line of ") for name in expected]))
    print(f"{count} pictures, undisturbed in {whole_s:.0f} s;", end=" ")
    print(f"engine {arguments.engine}, killed {kills} times, in {again_s:.0f} s: {len(differing)} of", end=" ")
    print(f"{len(expected)} results differ, {twice} pictures were recorded twice")
    if differing:
        print(stderr[-2000:])
    for name in differing[:10]:
        print(f"differs: {name}")
    sys.exit(bool(differing or twice))


if __name__ == "__main__":
    main()
