# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""So many cycles of a loop on a booted host with faults at random, and whether everything that is promised held.

    python tests/endurance/run.py HOST WORLD     a host of tests/loophost.py, and what tests/world/stage.py put up
    CYCLES=300 SEED=7 FAULTS="reboot,disk full" python tests/endurance/run.py HOST WORLD

Prints a line for each fault, one table at the end, and leaves .cache/soak/<seed>.json.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "world")]
import demo  # noqa: E402

from endurance import checks, harm  # noqa: E402
from endurance.scene import TOP, Scene  # noqa: E402

SHORT = 30
# Of the faults of the short form one each: those that any change of ours could make harmful.
FEW = (
    "engine killed", "agent killed", "gateway killed", "prepare killed", "settle killed", "all killed", "disk full",
    "forge", "clock jumps", "token rotated", "out of memory", "day used up",
)  # fmt: skip


def order(chance: random.Random, cycles: int) -> list[str]:
    """Which fault comes when: in the short form each of some once, else by their weights and each at least once."""
    known = {fault.name: fault.weight for fault in harm.FAULTS}
    if only := [name for name in os.environ.get("FAULTS", "").split(",") if name.strip()]:
        return [only[number % len(only)] for number in range(cycles)]
    if cycles <= SHORT:
        mixed = [*FEW, *["none"] * max(0, cycles - 2 * len(FEW))]
    else:
        mixed = [*known, *chance.choices(list(known), list(known.values()), k=cycles - len(known))]
    chance.shuffle(mixed)
    return mixed


def soak(scene: Scene, cycles: int) -> Counter[str]:
    """Cycles until there were so many, each with its fault."""
    by_name = {fault.name: fault for fault in harm.FAULTS}
    scene.seen.unrecorded = {fault.name for fault in harm.FAULTS if fault.unrecorded}
    done: Counter[str] = Counter()
    for name in order(scene.chance, cycles):
        if len(scene.outcomes) >= cycles and not os.environ.get("FAULTS"):
            break
        scene.approve_enough()
        began, before = time.monotonic(), len(scene.outcomes)
        with scene.fault(name):
            by_name[name].make(scene)
        done[name] += 1
        scene.tidy()
        ended = " ".join(scene.outcomes[before:])
        tell(f"{len(scene.outcomes):3} {name}: {ended} ({time.monotonic() - began:.1f} s) {scene.detail[:110]}")
    return done


def calm(scene: Scene) -> None:
    """After the last fault: whatever is left goes through, in as many cycles as its attempts may take."""
    scene.peace_at_the_forge()
    left = scene.offered()
    scene.seen.most_peaceful = scene.seen.most_attempts * len(left) + 2
    for _cycle in range(scene.seen.most_peaceful + 5):
        if not scene.offered():
            break
        scene.cycle()
        scene.seen.peaceful += 1
        tell(f"{len(scene.outcomes):3} calm: {scene.outcomes[-1]} {scene.detail[:110]}")
    scene.seen.waiting = scene.offered()


def tell(line: str) -> None:
    print(f"[{time.monotonic() - demo.BEGAN:6.0f} s] {line}", flush=True)


def verdicts(scene: Scene) -> dict[str, list[str]]:
    found = {check.__name__.replace("_", " "): check(scene.seen) for check in checks.INVARIANTS}
    found["what was arranged went as it must"] = scene.notes
    found["nothing of the loop's user is outside of a cell"] = scene.ask("outside")
    return found


def figures(scene: Scene) -> dict[str, Any]:
    seen, samples = scene.seen, scene.seen.samples
    third = max(1, len(samples) // 3)
    parts = {"first": samples[:third], "middle": samples[third : 2 * third], "last": samples[2 * third :]}
    names = sorted({name for sample in samples for name in sample})
    return {
        "cycles": len(scene.outcomes),
        "outcomes": dict(Counter(scene.outcomes).most_common()),
        "issues": len(seen.issues),
        "kinds": dict(Counter(scene.kinds.values())),
        "pulls": len(seen.pulls),
        "held": sum(count >= seen.most_attempts for count in seen.attempts.values()),
        "agents": sum(seen.agents.values()),
        "counted": sum(map(len, seen.ledger.values())),
        "sentinels": len(seen.planted),
        "most": {
            name: {part: max((one.get(name, 0.0) for one in some), default=0.0) for part, some in parts.items()}
            for name in names
        },
    }


def table(told: dict[str, Any]) -> str:
    rows = [("seed", told["seed"]), ("machine", told["machine"]), ("seconds", told["seconds"])]
    rows += [
        (name, told["figures"][name])
        for name in ("cycles", "issues", "pulls", "held", "agents", "counted", "sentinels")
    ]
    rows += [("outcomes", ", ".join(f"{name} {n}" for name, n in told["figures"]["outcomes"].items()))]
    rows += [("faults", ", ".join(f"{name} {n}" for name, n in told["faults"].items()))]
    for name, most in told["figures"]["most"].items():
        rows.append((name, " / ".join(f"{value:.0f}" for value in most.values()) + told["bounds"].get(name, "")))
    rows += [(name, "holds" if not wrong else f"BROKEN ({len(wrong)})") for name, wrong in told["verdicts"].items()]
    return "\n".join(f"{name:48} {value}" for name, value in rows)


def main(name: str, world: str) -> int:
    seed = int(os.environ.get("SEED") or 0) or random.SystemRandom().randrange(1, 1 << 32)
    cycles = int(os.environ.get("CYCLES") or SHORT)
    print(f"SEED={seed} CYCLES={cycles}", flush=True)
    scene = Scene(name, Path(world), seed)
    scene.set_up()
    tell("both engines are proven")
    began = time.monotonic()
    done = soak(scene, cycles)
    calm(scene)
    scene.gather()
    told: dict[str, Any] = {
        "seed": seed,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "seconds": round(time.monotonic() - began),
        "faults": dict(done.most_common()),
        "figures": figures(scene),
        "bounds": {name: f", at most {one.most:.0f}" for name, one in scene.seen.limits.items() if one.most},
        "verdicts": verdicts(scene),
        "seen": {**asdict(scene.seen), "unrecorded": sorted(scene.seen.unrecorded), "found": len(scene.seen.found),
                 "issues": sorted(scene.seen.issues)},
        "oom": scene.notes_of_oom,
    }  # fmt: skip
    place = TOP / ".cache/soak" / f"{seed}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(told)}\nall of it: {place.relative_to(TOP)}")
    wrong = {name: found for name, found in told["verdicts"].items() if found}
    for name, found in wrong.items():
        print("\n".join(f"BROKEN: {name}: {one}" for one in found[:10]))
    if wrong:
        print(f"again: make soak SEED={seed} CYCLES={cycles}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
