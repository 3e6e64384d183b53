"""List the types whose checkpoints one version names in a way the other's
probe has not mapped yet, and write those names for probe.py --names.

Usage: cross.py MINE.jsonl OTHER.jsonl NAMES.json   (prints the types of MINE to probe again)
"""

import json
import sys

from build import load, norm


def main():
    mine, other = load(sys.argv[1]), load(sys.argv[2])
    names, again = {}, []
    for t, r in mine.items():
        if t not in other:
            continue
        for c, variants in r["classes"].items():
            if c not in other[t]["classes"]:
                continue
            seen = {norm(n) for v in variants.values() for n in v["map"]}
            got = {n for v in other[t]["classes"][c].values() for n in v["saved"] + v.get("also", [])}
            if any(norm(n) not in seen for n in got):
                if t not in again:
                    again.append(t)
                names.setdefault(t, {})[c] = sorted(got)
    with open(sys.argv[3], "w") as f:
        json.dump(names, f)
    print(",".join(again))


if __name__ == "__main__":
    main()
