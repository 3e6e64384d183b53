"""What package arch says, for the checks: see classify."""

import json
import subprocess


class Arch:
    def __init__(self, binary):
        self.p = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, config, names, targets, towers, keep=(), as_bitsandbytes=False):
        request = {"config": config, "names": names, "targets": targets, "towers": towers, "keep": list(keep), "as_bitsandbytes": as_bitsandbytes}
        self.p.stdin.write(json.dumps(request, default=str) + "\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())
