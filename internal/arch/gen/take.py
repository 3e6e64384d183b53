"""Take a new version of transformers 5.x into the tables: what is new or changed is made anew, the rest stays.

Usage: take.py PYTHON WORK [--t4 PYTHON] [--changed TYPE,...] [--again]

PYTHON has the new version, WORK is a directory for what is found, --t4 the Python of 4.57 (needed where a changed type is in 4.57 too).
A run goes on where it stopped:

  1. check.py --modules asks about all types that the table has; those that differ are changed (--changed names them instead, and saves
     most of the time). Types that neither the table nor absent.txt has are new (--again: those of absent.txt too);
  2. run.py probes the new and the changed ones, build.py puts them into ../data/table.txt, and what has no class or cannot be built goes
     into absent.txt with the reason;
  3. reads.py and fp32.py ask them, for ../data/reads.txt and ../data/fp32.txt;
  4. run_facts.py asks the new ones, and the changed ones that ../../complete/data/facts.txt has; facts_build.py and splice.py put them there;
  5. check.py asks about the new and the changed ones again; nothing may differ.

What a new version alone holds in float32 of a type that was there before is not taken (known.txt says why): add a type to --changed that
is to get it.

Then read git diff, name in known.txt what is to stay different and why, and run the tests. WORK/times has the minutes that each step took.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import splice

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
TABLE = os.path.join(DATA, "table.txt")
FACTS = os.path.join(HERE, "..", "..", "complete", "data", "facts.txt")
ABSENT = os.path.join(HERE, "absent.txt")
NO_CLASS = "has no class of its own"


class Work:
    """A directory for what is found, and the Python that finds it."""

    def __init__(self, python, path):
        self.python, self.path = python, os.path.abspath(path)
        os.makedirs(self.path, exist_ok=True)

    def at(self, name):
        return os.path.join(self.path, name)

    def run(self, script, *args, out=None, python=None, may_fail=False):
        """Runs a script of this directory, or reads what an earlier run wrote to out."""
        if out and os.path.exists(self.at(out)):
            with open(self.at(out)) as f:
                return f.read()
        command = [python or self.python, os.path.join(HERE, script), *args]
        print("+", *command, file=sys.stderr, flush=True)
        env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
        began = time.monotonic()
        done = subprocess.run(command, cwd=HERE, env=env, stdout=subprocess.PIPE if out else None, text=True)
        with open(self.at("times"), "a") as f:
            f.write(f"{(time.monotonic() - began) / 60:6.1f} min  {script} {' '.join(args)[:60]}\n")
        if done.returncode and not may_fail:
            sys.exit(done.returncode)
        if out:
            with open(self.at(out) + ".part", "w") as f:
                f.write(done.stdout)
            os.rename(self.at(out) + ".part", self.at(out))
        return done.returncode if may_fail and not out else done.stdout

    def classify(self):
        """The program that check.py asks, of the tables as they are now."""
        subprocess.run(["go", "build", "-o", self.at("classify"), "./classify"], cwd=HERE, check=True)
        return self.at("classify")


def differing(log):
    """The types that check.py says differ."""
    return {line.split()[1] for line in log.splitlines() if line.startswith("DIFFERS ")}


def absent():
    """{type: why it is not in the table} of absent.txt."""
    with open(ABSENT) as f:
        return dict(line.rstrip("\n").split(" ", 1) for line in f if not line.startswith("#"))


def write_absent(probed):
    """Renews absent.txt by what run.py found out about types."""
    why = absent()
    with open(probed) as f:
        for result in map(json.loads, f):
            why.pop(result["type"], None)
            if not result["classes"]:
                errors = list(dict.fromkeys(" ".join(e.split()) for e in result["errors"].values()))
                why[result["type"]] = NO_CLASS if errors == ["no PreTrainedModel class"] else errors[0][:160]
    with open(ABSENT) as f:
        head = [line for line in f if line.startswith("#")]
    with open(ABSENT, "w") as f:
        f.writelines([*head, *(f"{t} {why[t]}\n" for t in sorted(why))])


def decide(work, types, a):
    """Step 1: which types are new, which are changed, and which of the latter 4.57 has too. The table is as it was before."""
    head, old = splice.read(TABLE)
    have = set(old) | {line.split()[1] for line in head if line.startswith("alias ")}
    if a.changed is None:
        log = work.run("check.py", work.classify(), "--modules", *(t for t in types if t in have), out="check.log", may_fail=True)
        changed = differing(log)
    else:
        changed = set(a.changed.split(",")) - {""}
    new = [t for t in types if t not in have and (a.again or t not in absent())]
    both = sorted(t for t in changed if t in old and "4" in old[t][0].split()[2])
    with open(work.at("which.json"), "w") as f:
        json.dump([new, sorted(changed), both], f)


def take_table(work, t4, which, both):
    """Step 2."""
    work.run("run.py", work.python, work.at("t5.jsonl"), "--only", ",".join(which))
    columns = ["--v5", work.at("t5.jsonl")]
    if both:
        work.run("run.py", t4, work.at("t4.jsonl"), "--only", ",".join(both), python=t4)
        columns += ["--v4", work.at("t4.jsonl")]
    work.run("build.py", *columns, "--into", TABLE, "--out", work.at("table.txt"), "--report", work.at("report.txt"))
    os.replace(work.at("table.txt"), TABLE)
    write_absent(work.at("t5.jsonl"))


def take_lists(work, t4, which, both):
    """Step 3."""
    for name in ("reads", "fp32"):
        data, files = os.path.join(DATA, name + ".txt"), []
        for python, suffix, types in ((work.python, "5", which), (t4, "4", both)):
            found = work.at(name + suffix + ".json")
            if types and not os.path.exists(found):
                work.run(name + ".py", found, *types, python=python)
            files.append(f"{found}:{data}" if types else data)
        work.run(name + ".py", "--join", *files, "--out", work.at(name + ".txt"))
        os.replace(work.at(name + ".txt"), data)


def take_facts(work, t4, which, both):
    """Step 4."""
    work.run("run_facts.py", work.python, work.at("facts5.jsonl"), "--only", ",".join(which))
    columns = ["5=" + work.at("facts5.jsonl")]
    if both:
        work.run("run_facts.py", t4, work.at("facts4.jsonl"), "--only", ",".join(both), python=t4)
        columns.append("4=" + work.at("facts4.jsonl"))
    work.run("facts_build.py", "--out", work.at("new-facts.txt"), *columns)
    splice.join(FACTS, work.at("new-facts.txt"), work.at("facts.txt"))
    os.replace(work.at("facts.txt"), FACTS)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("python")
    p.add_argument("work")
    p.add_argument("--t4")
    p.add_argument("--changed")
    p.add_argument("--again", action="store_true")
    a = p.parse_args()
    work = Work(a.python, a.work)

    types = work.run("probe.py", "--list", out="types").split()
    if not os.path.exists(work.at("which.json")):
        decide(work, types, a)
    with open(work.at("which.json")) as f:
        new, changed, both = json.load(f)
    print("new:", *new, "\nchanged:", *changed, file=sys.stderr)
    if both and not a.t4:
        sys.exit(f"--t4 is needed for {' '.join(both)}, which 4.57 has too")
    if new or changed:
        take_table(work, a.t4, [*new, *changed], both)
        new = [t for t in new if t not in absent()]
        take_lists(work, a.t4, [*new, *changed], both)
        have = set(splice.read(FACTS)[1])
        take_facts(work, a.t4, [*new, *(t for t in changed if t in have)], [t for t in both if t in have])
        sys.exit(work.run("check.py", work.classify(), *new, *changed, may_fail=True))


if __name__ == "__main__":
    main()
