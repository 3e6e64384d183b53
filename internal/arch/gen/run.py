"""Run probe.py over all model types, in a process that is restarted when a
type kills it.

Usage: run.py PYTHON OUT.jsonl [--names FILE] [--first TYPE,TYPE...]

OUT.jsonl is appended to; types it already has are skipped, so an interrupted
run goes on where it stopped.
"""

import argparse
import json
import os
import subprocess
import sys

PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("python")
    p.add_argument("out")
    p.add_argument("--names")
    p.add_argument("--first", default="")
    p.add_argument("--only", default="")
    a = p.parse_args()
    cmd = [a.python, PROBE] + (["--names", a.names] if a.names else [])
    env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    types = subprocess.run([a.python, PROBE, "--list"], env=env, check=True, capture_output=True, text=True).stdout.split()
    first = [t for t in a.first.split(",") if t in types]
    types = first + [t for t in types if t not in first]
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
                worker.kill()
                worker.wait()
                why = f"the process died ({worker.returncode})"
                worker = None
                line = json.dumps({"type": t, "classes": {}, "errors": {"process": why}}) + "\n"
            out.write(line)
            out.flush()
            r = json.loads(line)
            print(t, len(r["classes"]), r["errors"] or "", file=sys.stderr, flush=True)
    if worker is not None:
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    main()
