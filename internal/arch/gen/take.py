"""Take a new version of transformers 5.x into the tables: what is new or changed is made anew, the rest stays.

Usage: take.py PYTHON WORK [--t4 PYTHON] [--changed TYPE,...]

PYTHON has the new version, WORK is a directory for what is found, --t4 the Python of 4.57 (needed where a changed type is in 4.57 too).
A run goes on where it stopped:

  1. types that the table does not have are listed; check.py asks about all others, and those that differ are changed (--changed names
     them instead, and saves the half hour that this takes);
  2. run.py probes the new and the changed ones, build.py puts them into ../data/table.txt;
  3. reads.py and fp32.py ask all types, and their columns of 5.x become those of ../data/reads.txt and ../data/fp32.txt;
  4. run_facts.py asks the new and the changed ones, facts_build.py and splice.py put them into ../../complete/data/facts.txt;
  5. check.py asks about the new and the changed ones again; nothing may differ.

Then read git diff, name in known.txt what is to stay different and why, and run the tests.
"""

import argparse
import os
import subprocess
import sys

import splice

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")
FACTS = os.path.join(HERE, "..", "..", "complete", "data", "facts.txt")


def run(*args, out=None):
    """Runs a script of this directory, or reads what an earlier run wrote to out."""
    if out and os.path.exists(out):
        with open(out) as f:
            return f.read()
    print("+", *args, file=sys.stderr, flush=True)
    env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    done = subprocess.run(args, cwd=HERE, env=env, stdout=subprocess.PIPE if out else None, text=True)
    if done.returncode and os.path.join(HERE, "check.py") not in args:
        sys.exit(done.returncode)
    if out:
        with open(out + ".part", "w") as f:
            f.write(done.stdout)
        os.rename(out + ".part", out)
    return done.stdout


def differing(log):
    """The types that check.py says differ in more than a dtype, which fp32.py asks of all."""
    found = set()
    for line in log.splitlines():
        fields = line.split("[")[0].split("{")[0].split()
        if fields[:1] == ["DIFFERS"] and fields[-1] not in ("bfloat16", "float16"):
            found.add(fields[1])
    return found


def main():
    p = argparse.ArgumentParser()
    p.add_argument("python")
    p.add_argument("work")
    p.add_argument("--t4")
    p.add_argument("--changed")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    at = lambda name: os.path.abspath(os.path.join(a.work, name))
    script = lambda name: os.path.join(HERE, name)
    table, classify = os.path.join(DATA, "table.txt"), at("classify")

    subprocess.run(["go", "build", "-o", classify, "./classify"], cwd=HERE, check=True)
    head, old = splice.read(table)
    have = set(old) | {line.split()[1] for line in head if line.startswith("alias ")}
    types = run(a.python, script("probe.py"), "--list", out=at("types")).split()
    new = [t for t in types if t not in have]
    if a.changed is None:
        changed = differing(run(a.python, script("check.py"), classify, *(t for t in types if t in have), out=at("check.log")))
    else:
        changed = set(a.changed.split(",")) - {""}
    print("new:", *new, "\nchanged:", *sorted(changed), file=sys.stderr)
    both = sorted(t for t in changed if t in old and "4" in old[t][0].split()[2])
    if both and not a.t4:
        sys.exit(f"--t4 is needed for {' '.join(both)}, which 4.57 has too")

    which = ",".join([*new, *sorted(changed)])
    if which:
        run(a.python, script("run.py"), a.python, at("t5.jsonl"), "--only", which)
        columns = ["--v5", at("t5.jsonl")]
        if both:
            run(a.t4, script("run.py"), a.t4, at("t4.jsonl"), "--only", ",".join(both))
            columns += ["--v4", at("t4.jsonl")]
        run(a.python, script("build.py"), *columns, "--into", table, "--out", at("table.txt"), "--report", at("report.txt"))
        os.replace(at("table.txt"), table)
    for name in ("reads", "fp32"):
        if not os.path.exists(at(name + ".json")):
            run(a.python, script(name + ".py"), at(name + ".json"))
        data = os.path.join(DATA, name + ".txt")
        run(a.python, script(name + ".py"), "--join", at(name + ".json"), data, "--out", at(name + ".txt"))
        os.replace(at(name + ".txt"), data)
    if which:
        run(a.python, script("run_facts.py"), a.python, at("facts5.jsonl"), "--only", which)
        run(a.python, script("facts_build.py"), "--out", at("new-facts.txt"), "5=" + at("facts5.jsonl"))
        splice.join(FACTS, at("new-facts.txt"), at("facts.txt"))
        os.replace(at("facts.txt"), FACTS)
        subprocess.run(["go", "build", "-o", classify, "./classify"], cwd=HERE, check=True)
        sys.exit(subprocess.run([a.python, script("check.py"), classify, *which.split(",")], cwd=HERE).returncode)


if __name__ == "__main__":
    main()
