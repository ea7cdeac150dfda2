"""Random kill -9 over every stage, each resumed, each compared with an unkilled run. Seeded; touches only --work.

    python -m tests.tools.kill9 --work SCRATCH --kills 44 --seed 1

One template process imports everything once and forks a child a run, so that a trial costs seconds. A trial: inputs as
in the base run, child started, SIGKILL after a random share of the time that the unkilled run took (one time in four a
second kill during the resume), same command again to its end. Then: is the manifest's digest the base run's, which
files differ, what temporary files, scratch folders or processes are left? One JSON line a trial in WORK/results.jsonl,
a summary at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
CHAIN = ("data", "style", "pair", "student", "export")
KINDS = {"ingest": "data", "tar": "pair", "tps": "pair", "expanded": "style", "blaze": "student"}  # a variant's stage
STAGES = (*CHAIN, *KINDS, "stylize")
PLACES = (("own/photo", "photo", 0), ("own/style/ink", "comic", 300), ("pictures/a", "photo", 600))
TINY = [
    "workers=1", "device=cpu", "data.count=24", "data.heldout=8", "data.style_count=16", "data.heldout_style=12",
    "style.train.images=32", "style.train.batch=4", "+style.train.checkpoint_images=12",
    "+style.train.preview_images=16", "style.sampling.count=16", "style.sampling.batch=4", "pair.train.images=16",
    "pair.train.batch=2", "+pair.train.checkpoint_images=6", "+pair.train.preview_images=8", "student.train.images=64",
    "student.train.batch=8",
    "+student.train.checkpoint_images=24", "+student.train.preview_images=32", "export.photos=2", "export.repeats=2",
    "export.calibration=4",
]  # fmt: skip
VARIANTS = {
    "tar": ["pair.write.format=tar", "pair.write.per_shard=6"],
    "tps": ["pair=tps"],
    "expanded": [
        "style=expanded", "style.attributes=[age,yaw]", "style.iterative=true", "style.modes.steps=2",
        "style.modes.tuning=2", "++style.classify.train.images=16", "++style.classify.train.batch=4",
        "++style.classify.train.checkpoint_images=8", "++style.encode.train.images=16", "++style.encode.train.batch=4",
        "++style.encode.train.checkpoint_images=8",
    ],
    "blaze": ["student=blaze"],
}  # fmt: skip


def words(stage: str, out: Path, work: Path) -> list[str]:
    if stage == "stylize":
        return ["stylize", str(work / "pictures"), "-o", str(out / "painted"), "--jobs", "2", "--faces", "never"]
    if stage == "ingest":
        return ["tristyle", "stage=data", "data=folders", f"data.path={work / 'own'}", "workers=2", "device=cpu",
                f"out={out}"]  # fmt: skip
    return ["tristyle", f"stage={KINDS.get(stage, stage)}", f"out={out}", *TINY, *VARIANTS.get(stage, [])]


def doom(at: int, after: bool, count: Path | None) -> None:
    """Make this process kill itself at its `at`-th rename, before or after it; with `count` only count."""
    rename, seen = os.replace, [0]

    def replace(source, target, **options):
        seen[0] += 1
        if count is not None:
            count.write_text(str(seen[0]))
        if seen[0] == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target, **options)
        if seen[0] == at and after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def start(command: list[str], log: Path, mark: str, at: int = 0, after: bool = False, count: Path | None = None) -> int:
    """Fork; the child runs the console script's function in this warm process image."""
    child = os.fork()
    if child:
        return child
    if at or count:
        doom(at, after, count)
    os.setsid()
    os.environ["KILL9_MARK"] = mark
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 0
    try:
        sys.argv = command
        if command[0] == "stylize":
            from stages.apply.cli import main
        else:
            from stages.pipeline.cli import main
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def marked(mark: str) -> list[int]:
    """Processes that a trial started and that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"KILL9_MARK={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def result(stage: str, out: Path) -> dict[str, str]:
    """What counts: of an artifact its sealed files and digest, of a stylised folder the pictures."""
    if stage == "stylize":
        return {name: value for name, value in files(out / "painted").items() if not name.startswith(".")}
    (manifest,) = (out / KINDS.get(stage, stage)).glob("*/manifest.json")
    told = json.loads(manifest.read_bytes())
    return {"digest": told["digest"], **{name: entry["sha256"] for name, entry in told["files"].items()}}


def debris(out: Path) -> list[str]:
    """Temporary files and scratch folders under `out`, wherever they are."""
    known = (".lock", ".ingest", ".stylize.jsonl", ".sweep")
    found = []
    for path in out.rglob("*"):
        relative = path.relative_to(out)
        if ".ingest" in relative.parts and not path.name.endswith(".tmp"):
            continue
        if path.name.startswith(".") and path.name not in known or path.name.endswith((".tmp", ".previous")):
            found.append(str(relative))
    return sorted(found)


def fresh(stage: str, base: Path, out: Path) -> None:
    """A run folder with the inputs of a stage and nothing of the stage itself."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if stage in CHAIN or stage in VARIANTS:
        for kind in CHAIN[: CHAIN.index(KINDS.get(stage, stage))]:
            shutil.copytree(base / kind, out / kind)


def make_pictures(work: Path) -> None:
    import cv2

    from tests.tools.tiny_runs import face

    for number in range(24):
        for place, style, seed in PLACES:
            file = work / place / f"{number:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                cv2.imwrite(str(file), face(seed + number, style, 192)[..., ::-1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=44)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--at-rename", action="store_true", help="kill around a random rename")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    import cv2  # noqa: F401
    import hydra  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    import stages.pipeline.cli  # noqa: F401
    import stages.pipeline.run  # noqa: F401

    torch.set_num_threads(1)
    make_pictures(work)
    base, taken, wanted = work / "base", {}, {}
    ends = [CHAIN.index(name) + 1 for name in options.stages if name in CHAIN]
    ends += [CHAIN.index(KINDS[name]) for name in options.stages if name in VARIANTS]  # what they read
    for stage in [*CHAIN[: max(ends, default=0)], *(name for name in options.stages if name not in CHAIN)]:
        out = base if stage in CHAIN else work / f"base-{stage}"
        if stage not in CHAIN:
            fresh(stage, base, out)
        begun = time.monotonic()
        renames = work / f"renames-{stage}"
        renames.unlink(missing_ok=True)
        if stage in CHAIN and stage not in options.stages and (out / stage).is_dir():
            wanted[stage], taken[stage] = result(stage, out), 1.0
            continue
        code = finish(start(words(stage, out, work), work / "base.log", "base", count=renames))
        taken[stage] = time.monotonic() - begun
        if code:
            print(f"base run of {stage} failed with {code}; see base.log")
            return 1
        wanted[stage] = result(stage, out)
        print(f"base {stage}: {taken[stage]:.1f} s", flush=True)
    rng = random.Random(options.seed)
    deadline = time.monotonic() + 60 * options.minutes
    rows = []
    for trial in range(options.kills):
        if time.monotonic() > deadline:
            break
        stage = options.stages[trial % len(options.stages)]
        out, mark = work / "trial", f"t{options.seed}-{trial}"
        fresh(stage, base, out)
        log = work / f"trial-{options.seed}-{trial:03d}-{stage}.log"
        row = {"trial": trial, "stage": stage, "kills": [], "seed": options.seed}
        for _ in range(1 + (rng.random() < 0.25)):
            wait, renames = rng.uniform(0.03, 1.0) * taken[stage], work / f"renames-{stage}"
            if options.at_rename and renames.exists():  # else its child processes rename: any moment
                wait = rng.randint(1, int(renames.read_text()))
                child = start(words(stage, out, work), log, mark, wait, rng.random() < 0.3)
            else:
                child = start(words(stage, out, work), log, mark)
                time.sleep(wait)
                os.kill(child, signal.SIGKILL)
            status = finish(child)
            row["kills"].append({"after": round(wait, 2), "ended": status, "debris": debris(out)[:12]})
        time.sleep(1.2)
        row["orphans"] = len(marked(mark))
        begun = time.monotonic()
        row["resume_code"] = finish(start(words(stage, out, work), log, mark))
        row["resume_seconds"] = round(time.monotonic() - begun, 1)
        try:
            got = result(stage, out)
            names = sorted(
                name for name in wanted[stage].keys() | got.keys() if wanted[stage].get(name) != got.get(name)
            )
        except (ValueError, OSError) as error:
            names = [f"no result: {error}"]
        row["differs"] = names
        row["debris"] = debris(out)
        row["leftover_processes"] = len(marked(mark))
        rows.append(row)
        with open(work / "results.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{trial:3d} {stage:8} killed {[k['after'] for k in row['kills']]} -> resume {row['resume_code']}; "
              f"differs {names[:6]}; debris {row['debris'][:4]}; orphans {row['orphans']}", flush=True)  # fmt: skip
    real = [row for row in rows if any(kill["ended"] == -9 for kill in row["kills"])]
    print(json.dumps({
        "trials": len(rows), "kills": sum(kill["ended"] == -9 for row in rows for kill in row["kills"]),
        "resume_failed": sum(row["resume_code"] != 0 for row in rows),
        "other_digest": {s: sum(bool(r["differs"]) for r in real if r["stage"] == s) for s in STAGES},
        "killed": {s: sum(r["stage"] == s for r in real) for s in STAGES},
        "debris": sum(bool(row["debris"]) for row in rows), "orphans": sum(bool(row["orphans"]) for row in rows),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
