"""Run facts.py over the model types, in a process that is restarted when a type kills it or takes too long.

Usage: run_facts.py PYTHON OUT.jsonl [--main] [--only TYPE,...]

OUT.jsonl is appended to; types it already has are skipped, so an interrupted run goes on where it stopped. With --main, only the
classes that most checkpoints have are asked about.
"""

import argparse
import json
import os
import subprocess
import sys

FACTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "facts.py")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("python")
    p.add_argument("out")
    p.add_argument("--main", action="store_true")
    p.add_argument("--only", default="")
    a = p.parse_args()
    cmd = [a.python, FACTS] + (["--main"] if a.main else [])
    env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    types = subprocess.run([a.python, FACTS, "--list"], env=env, check=True, capture_output=True, text=True).stdout.split()
    if a.only:
        types = [t for t in a.only.split(",") if t in types]
    done = set()
    if os.path.exists(a.out):
        with open(a.out) as f:
            done = {json.loads(line)["type"] for line in f}
    worker = None
    with open(a.out, "a") as out:
        for t in types:
            if t in done:
                continue
            if worker is None:
                worker = subprocess.Popen(cmd + ["-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                          stderr=subprocess.DEVNULL, text=True, bufsize=1)
            worker.stdin.write(t + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                why = f"the process died ({worker.wait()})"
                worker = None
                line = json.dumps({"type": t, "classes": {}, "errors": {"process": why}}) + "\n"
            out.write(line)
            out.flush()
            r = json.loads(line)
            print(t, len(r["classes"]), r.get("seconds"), r["errors"] or "", file=sys.stderr, flush=True)
    if worker is not None:
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    main()
